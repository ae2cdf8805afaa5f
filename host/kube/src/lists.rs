//! Lists of objects and of warning events, read from the API server page by page.

use kube::api::ListParams;
use serde_json::Value;
use tholepin_core::{CallError, ObjectRef, port::WarningEvent};
use tholepin_schema::manifest::KindName;

use crate::{KubernetesApi, api::parse, events::newest_warnings, kinds::DiscoveredKind};

/// The most pages that a live list reads, of [`PAGE_SIZE`] objects each.
const PAGES_MAX: usize = 20;
/// Objects per page of a live list.
const PAGE_SIZE: u32 = 500;

impl KubernetesApi {
    pub(crate) async fn list_objects(
        &self,
        kind: KindName,
        namespace: String,
        selector: String,
    ) -> Result<Vec<Value>, CallError> {
        let served = self.served(&kind).await?;
        let list_reference = ObjectRef { kind, namespace, name: "*".to_owned() };
        let params = ListParams::default().labels(&selector);
        self.list_pages(&served, list_reference, params).await
    }

    /// Returns the newest warning events of an object. Reads `v1` events, because every server serves them.
    pub(crate) async fn list_warnings(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> Result<Vec<WarningEvent>, CallError> {
        let kind = KindName { api_version: "v1".to_owned(), kind: "Event".to_owned() };
        let served = self.served(&kind).await?;
        // The events of a cluster-scoped object are in `default`.
        let namespace =
            if object.namespace.is_empty() { "default".to_owned() } else { object.namespace };
        let params =
            ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
        let list_reference = ObjectRef { kind, namespace, name: "*".to_owned() };
        Ok(newest_warnings(&self.list_pages(&served, list_reference, params).await?))
    }

    async fn list_pages(
        &self,
        served: &DiscoveredKind,
        list_reference: ObjectRef,
        params: ListParams,
    ) -> Result<Vec<Value>, CallError> {
        let api = served.api(self.client.clone(), &list_reference.namespace);
        let mut params = params.limit(PAGE_SIZE);
        let mut objects = Vec::new();
        for _ in 0..PAGES_MAX {
            let page =
                self.send(served, ("list", &list_reference, false), api.list(&params)).await?;
            for raw in &page.items {
                objects.push(self.to_stored(parse(raw, served)?)?.value());
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(objects),
            }
        }
        Err(CallError::Unsupported(format!(
            "{list_reference}: more than {} objects; narrow the namespace or the selector",
            objects.len()
        )))
    }
}
