//! The writes of the controllers, each of which is harmless when it comes too late or twice.
//!
//! A controller decides on the objects that it observed; another writer may have created, changed or deleted
//! one since. A reply that says so is not an error here: the watch delivers the change, and the decision is
//! made anew.

use std::error::Error;
use std::fmt::{self, Debug};

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why the API server refused a write.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {kind} `{name}`")]
pub struct ApiWriteError {
    verb: &'static str,
    kind: String,
    name: String,
    source: ApiRequestError,
}

impl ApiWriteError {
    /// Returns why the request failed.
    pub fn cause(&self) -> &ApiRequestError {
        &self.source
    }
}

/// Why a request to the API server failed.
///
/// The text is the message of the API server, if it replied. The error has no source, because kube repeats the
/// causes in the text of its own errors.
#[derive(Debug)]
pub struct ApiRequestError(Box<kube::Error>);

impl From<kube::Error> for ApiRequestError {
    fn from(error: kube::Error) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for ApiRequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let kube::Error::Api(status) = &*self.0 {
            return f.write_str(&status.message);
        }
        write!(f, "{}", self.0)
    }
}

impl Error for ApiRequestError {}

/// Writes objects of one kind as one field manager.
#[derive(Clone, Debug)]
pub struct ApiWriter<K> {
    api: Api<K>,
    manager: &'static str,
}

impl<K> ApiWriter<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    /// Creates a writer that uses `api`, as the field manager `manager`.
    pub fn new(api: Api<K>, manager: &'static str) -> Self {
        Self { api, manager }
    }

    /// Creates an object. Returns `None` if an object of that name exists already.
    ///
    /// # Errors
    ///
    /// Returns an error if the API server does not reply, or refuses the write for any other reason.
    pub async fn create(&self, object: &K) -> Result<Option<K>, ApiWriteError> {
        let params =
            PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
        match self.api.create(&params, object).await {
            Ok(created) => Ok(Some(created)),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
            Err(source) => {
                let name = object.meta().name.clone().unwrap_or_default();
                Err(self.refused("create", &name, source))
            }
        }
    }

    /// Deletes an object if it still has that uid.
    ///
    /// # Errors
    ///
    /// Returns an error if the API server does not reply or refuses. An object that was deleted or replaced
    /// already is not an error.
    pub async fn delete(&self, name: &str, uid: Option<&str>) -> Result<(), ApiWriteError> {
        let preconditions =
            uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.api.delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                Ok(())
            }
            Err(source) => Err(self.refused("delete", name, source)),
        }
    }

    /// Reads an object from the API server instead of a reflector. Returns `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the API server does not reply or refuses.
    pub async fn get(&self, name: &str) -> Result<Option<K>, ApiWriteError> {
        self.api.get_opt(name).await.map_err(|source| self.refused("read", name, source))
    }

    /// Merges fields into an object. Returns `None` if it was deleted.
    ///
    /// # Errors
    ///
    /// Returns an error if the API server does not reply or refuses, also if the patch has an outdated
    /// resourceVersion.
    pub async fn merge(&self, name: &str, patch: &Value) -> Result<Option<K>, ApiWriteError> {
        let params = self.patch_params(false);
        self.settle("change", name, self.api.patch(name, &params, &Patch::Merge(patch)).await)
    }

    /// Merges fields into the status of an object. Returns `None` if it was deleted.
    ///
    /// # Errors
    ///
    /// Returns an error if the API server does not reply or refuses.
    pub async fn merge_status(
        &self,
        name: &str,
        patch: &Value,
    ) -> Result<Option<K>, ApiWriteError> {
        let params = self.patch_params(false);
        let answer = self.api.patch_status(name, &params, &Patch::Merge(patch)).await;
        self.settle("report on", name, answer)
    }

    /// Applies the status of an object with server-side apply, and takes the fields over from other managers.
    /// Returns `None` if it was deleted.
    ///
    /// # Errors
    ///
    /// Returns an error if the API server does not reply or refuses.
    pub async fn apply_status(
        &self,
        name: &str,
        intent: &Value,
    ) -> Result<Option<K>, ApiWriteError> {
        let params = self.patch_params(true);
        let answer = self.api.patch_status(name, &params, &Patch::Apply(intent)).await;
        self.settle("report on", name, answer)
    }

    /// Applies an object with server-side apply, and takes the fields over from other managers.
    ///
    /// # Errors
    ///
    /// Returns an error if the API server does not reply or refuses.
    pub async fn apply(&self, name: &str, intent: &Value) -> Result<Option<K>, ApiWriteError> {
        let params = self.patch_params(true);
        self.settle("apply", name, self.api.patch(name, &params, &Patch::Apply(intent)).await)
    }

    fn patch_params(&self, force: bool) -> PatchParams {
        PatchParams {
            field_manager: Some(self.manager.to_owned()),
            force,
            ..PatchParams::default()
        }
    }

    fn settle(
        &self,
        verb: &'static str,
        name: &str,
        answer: kube::Result<K>,
    ) -> Result<Option<K>, ApiWriteError> {
        match answer {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(source) => Err(self.refused(verb, name, source)),
        }
    }

    fn refused(&self, verb: &'static str, name: &str, source: kube::Error) -> ApiWriteError {
        let kind = K::kind(&()).into_owned();
        ApiWriteError { verb, kind, name: name.to_owned(), source: source.into() }
    }
}
