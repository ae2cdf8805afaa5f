//! The stages that the demo waits for, with a line of output for each.

use std::{
    io::{IsTerminal, stdout},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tholepin_core::{
    CallError, ObjectRef,
    port::{ApplyRequest, Kubernetes},
};
use tholepin_guest::CompilationNotice;
use tholepin_kube::KubernetesApi;
use tholepin_schema::manifest::KindName;

use super::{super::print, pause, text};
use crate::{engine, plugin_kind::plugin_reference};

/// The demo's own field manager.
const FIELD_MANAGER: &str = "tholepin-demo";

/// Prints the begin and the end of a compilation.
pub(super) fn show_compilation(CompilationNotice { plugin, bytes, took }: &CompilationNotice) {
    let megabytes = (bytes / 1000) as f64 / 1000.0;
    let text = match took {
        None => format!("  compiling   {plugin} ({megabytes:.1} MB)\n"),
        Some(took) => format!("  compiled    {plugin} in {:.1} s\n", took.as_secs_f32()),
    };
    // The demo continues if stdout is closed.
    print(&text).ok();
}

/// Reads the cluster and prints its progress.
pub(super) struct DemoProgressPrinter {
    kubernetes: Arc<KubernetesApi>,
    /// The last printed line: only another one is printed.
    printed: String,
}

impl DemoProgressPrinter {
    pub(super) async fn connect(kubeconfig: &Path) -> Result<Self> {
        let kubernetes = engine::connect(Some(kubeconfig.to_owned())).await?;
        Ok(Self { kubernetes, printed: String::new() })
    }

    /// Waits until a plugin is active.
    pub(super) async fn plugin_active(&mut self, name: &str) -> Result<()> {
        let plugin = plugin_reference(name);
        loop {
            let found = self.read(&plugin).await?;
            let (stage, reason) = match &found {
                Some(found) => (text(found, "/status/stage"), text(found, "/status/message")),
                None => ("", ""),
            };
            if stage == "Active" {
                return self.print(&format!("  plugin      {name}: Active")).map(drop);
            }
            if !stage.is_empty() {
                self.print(&format!("  plugin      {name}: {stage} {reason}"))?;
            }
            pause().await;
        }
    }

    /// Applies each document of a YAML stream.
    pub(super) async fn apply(&mut self, stream: &str) -> Result<()> {
        for document in stream.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).context("the example is YAML")?;
            let name = format!("{} {}", text(&object, "/kind"), text(&object, "/metadata/name"));
            let request = ApplyRequest {
                field_manager: FIELD_MANAGER.to_owned(),
                object,
                force: false,
                status: false,
                dry_run: false,
            };
            self.kubernetes
                .apply(request)
                .await
                .with_context(|| format!("cannot create {name}"))?;
            self.print(&format!("  created     {name}"))?;
        }
        Ok(())
    }

    /// Waits until a RedisCluster is Ready, and returns the address of its client Service.
    pub(super) async fn cluster_ready(
        &mut self,
        namespace: &str,
        name: &str,
    ) -> Result<(String, u16)> {
        let cluster = reference("redis.tholepin.dev/v1alpha1", "RedisCluster", namespace, name);
        loop {
            let found = self.read(&cluster).await?.unwrap_or_default();
            let conditions = found.pointer("/status/conditions").and_then(Value::as_array);
            let ready =
                conditions.into_iter().flatten().find(|found| text(found, "/type") == "Ready");
            if ready.is_some_and(|ready| text(ready, "/status") == "True") {
                break;
            }
            let message = ready.map_or("waiting for the plugin", |ready| text(ready, "/message"));
            self.print(&format!("  waiting     {message}"))?;
            pause().await;
        }
        let service = self.read(&reference("v1", "Service", namespace, name)).await?;
        let service = service.context("the cluster has no client Service")?;
        let port = service.pointer("/spec/ports/0/port").and_then(Value::as_u64);
        let port =
            port.and_then(|port| u16::try_from(port).ok()).context("the Service has no port")?;
        Ok((text(&service, "/spec/clusterIP").to_owned(), port))
    }

    async fn read(&self, object: &ObjectRef) -> Result<Option<Value>> {
        match Kubernetes::get(&*self.kubernetes, object.clone()).await {
            Ok(found) => Ok(Some(found)),
            // The kind itself may be missing at first, and the API server may be busy.
            Err(CallError::NotFound(_) | CallError::Timeout(_) | CallError::Transient(_)) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Prints a line unless it is the last one again; on a terminal it replaces a line that begins with `waiting`.
    fn print(&mut self, line: &str) -> Result<bool> {
        let line = line.trim_end();
        if self.printed == line {
            return Ok(false);
        }
        let replaces = stdout().is_terminal() && self.printed.trim_start().starts_with("waiting");
        let back = if replaces { "\x1b[1A\x1b[2K" } else { "" };
        print(&format!("{back}{line}\n"))?;
        line.clone_into(&mut self.printed);
        Ok(true)
    }
}

fn reference(api_version: &str, kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: api_version.to_owned(), kind: kind.to_owned() },
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}
