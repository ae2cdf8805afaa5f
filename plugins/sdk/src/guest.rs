//! The exports as functions over JSON text, called by [`export!`](crate::export). Plugins do not call them.

use tholepin_schema::reconcile::{ReconcileFailure, ReconcileRequest};

use crate::Reconciler;

/// Runs `describe`.
#[must_use]
pub fn describe<R: Reconciler>() -> String {
    prepare();
    write(&R::describe())
}

/// Runs `validate`.
#[must_use]
pub fn validate<R: Reconciler>(old: Option<&str>, new: &str) -> String {
    prepare();
    let old = old.map(read);
    write(&R::validate(old, read(new)))
}

/// Runs `reconcile`.
///
/// # Errors
///
/// Returns the plugin's failure as JSON. The reasons `BadRequest` and `NoHost` are the SDK's own.
pub fn reconcile<R: Reconciler>(request: &str) -> Result<String, String> {
    prepare();
    let request: ReconcileRequest = match serde_json::from_str(request) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("the host's request cannot be parsed by this SDK: {error}");
            return Err(write(&ReconcileFailure {
                reason: "BadRequest".to_owned(),
                message,
                retry: false,
            }));
        }
    };
    let Some(host) = host() else {
        let message =
            "there is no host outside Wasm; call `Reconciler::reconcile` with one".to_owned();
        return Err(write(&ReconcileFailure {
            reason: "NoHost".to_owned(),
            message,
            retry: false,
        }));
    };
    R::reconcile(host, request).map(|outcome| write(&outcome)).map_err(|failure| write(&failure))
}

/// Returns the host that runs this guest; `None` outside Wasm.
#[must_use]
pub fn host() -> Option<&'static dyn crate::Host> {
    #[cfg(target_family = "wasm")]
    return Some(&crate::wit::WitImportHost);
    #[cfg(not(target_family = "wasm"))]
    None
}

/// Sends a panic's text and location to the host's log, where the host finds it after a trap.
fn prepare() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| {
        use crate::Host as _;
        let text = panic.payload_as_str().unwrap_or("a value that is not text");
        let line = match panic.location() {
            Some(place) => format!("panicked at {place}: {text}"),
            None => format!("panicked at an unknown place: {text}"),
        };
        crate::wit::WitImportHost.log(crate::LogLevel::Error, &line);
    }));
}

/// Parses JSON. The contract guarantees JSON; any other text becomes null, which no spec is.
fn read(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// Serializes a document of the schema. Cannot fail, because these documents have string keys only.
fn write<T: serde::Serialize>(document: &T) -> String {
    serde_json::to_string(document).unwrap_or_default()
}
