//! Runs one node against any API server, for manual trials and for the tests of the agent: `node run
//! KUBECONFIG DIRECTORY NAME`. The example itself starts `node container SPEC`.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use tholepin_agent::{
    AgentOptions, HostAliasSource, ImageTable, NodeOptions, PodAddressAllocator,
    START_FAILED_EXIT_CODE, container_main,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// An address pool that counts up from 127.23.1.1 and uses no address twice.
#[derive(Debug, Default)]
struct CountingAddressPool(Mutex<BTreeMap<String, Ipv4Addr>>);

impl PodAddressAllocator for CountingAddressPool {
    fn allocate(&self, uid: &str, preferred: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next =
            u32::from(Ipv4Addr::new(127, 23, 1, 1)).saturating_add(u32::try_from(used.len()).ok()?);
        Some(
            *used
                .entry(uid.to_owned())
                .or_insert_with(|| preferred.unwrap_or(Ipv4Addr::from(next))),
        )
    }

    fn release(&self, _uid: &str) {}
}

/// A source of one fixed name, which shows that names reach the containers.
#[derive(Debug)]
struct FixedHostAliasSource(watch::Sender<Arc<str>>);

impl HostAliasSource for FixedHostAliasSource {
    fn lines(&self, _namespace: &str) -> watch::Receiver<Arc<str>> {
        self.0.subscribe()
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument_texts: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match argument_texts.as_slice() {
        ["container", spec] => match container_main(spec.as_ref()) {
            Ok(never) => match never {},
            Err(_) => {
                return ExitCode::from(u8::try_from(START_FAILED_EXIT_CODE).unwrap_or(1));
            }
        },
        ["run", kubeconfig, directory, name] => run(kubeconfig, directory, name),
        _ => Err("usage: node run KUBECONFIG DIRECTORY NAME".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the node ended");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(kubeconfig: &str, directory: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/images.yaml");
    let options = AgentOptions {
        node: NodeOptions {
            name: name.to_owned(),
            address: Ipv4Addr::new(127, 23, 0, 2),
            labels: BTreeMap::from([("topology.kubernetes.io/zone".into(), "zone-1".into())]),
            capacity: [("cpu", "8"), ("memory", "16Gi"), ("pods", "110")]
                .map(|(resource, amount)| (resource.to_owned(), amount.to_owned()))
                .into(),
        },
        directory: directory.into(),
        images: ImageTable::load(table.as_ref(), directory.as_ref())?,
        container_program: PathBuf::from("/proc/self/exe").canonicalize()?,
        addresses: Arc::new(CountingAddressPool::default()),
        hosts: Arc::new(FixedHostAliasSource(watch::Sender::new(
            "127.23.240.1 example.default.svc\n".into(),
        ))),
        allow_host_path: false,
        stop_grace: Duration::from_secs(5),
    };
    let stop = CancellationToken::new();
    let agent = tholepin_agent::run(kube::Client::try_from(config)?, options, stop.clone());
    tokio::pin!(agent);
    tokio::select! {
        result = &mut agent => return Ok(result?),
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    stop.cancel();
    Ok(agent.await?)
}
