//! The port to the kinds that the API server serves, which the binary implements, and their installation at the start.

use std::time::Duration;

use serde_json::Value;
use tholepin_core::{BoxedFuture, CallError};
use tholepin_schema::manifest::KindName;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long a host that starts waits for the API server, and the pause between two attempts.
const API_SERVER_DEADLINE: Duration = Duration::from_secs(300);
const API_SERVER_PAUSE: Duration = Duration::from_secs(1);

/// The kinds of the API server.
pub trait ApiKinds: Send + Sync {
    /// Finds the one among these kinds that a command-line argument names: by kind, plural or short name, as kubectl
    /// takes it.
    ///
    /// # Errors
    ///
    /// Fails if the API server does not answer.
    fn find<'a>(
        &'a self,
        argument: &'a str,
        among: &'a [KindName],
    ) -> BoxedFuture<'a, Result<Option<KindFromArgument>, CallError>>;

    /// Returns true if the objects of a kind are in namespaces.
    ///
    /// # Errors
    ///
    /// Fails if the API server does not serve the kind, or does not answer.
    fn is_namespaced<'a>(&'a self, kind: &'a KindName) -> BoxedFuture<'a, Result<bool, CallError>>;

    /// Installs a CustomResourceDefinition, or updates it.
    ///
    /// # Errors
    ///
    /// Fails if the API server refuses it, or does not answer.
    fn install<'a>(&'a self, definition: &'a Value) -> BoxedFuture<'a, Result<(), CallError>>;

    /// Returns the watched kinds that the API server does not serve.
    fn missing(&self) -> Vec<KindName>;
}

/// A kind that an argument names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindFromArgument {
    /// The kind.
    pub kind: KindName,
    /// Whether its objects are in namespaces.
    pub is_namespaced: bool,
}

/// Installs the kinds of the host itself. Retries for up to five minutes while the API server does not answer, so that
/// a host that starts before the API server needs no restart. Returns false if `stop` was cancelled meanwhile.
///
/// # Errors
///
/// Fails if the API server refuses a definition, or does not answer in time.
pub async fn install_when_available(
    kinds: &dyn ApiKinds,
    definitions: impl IntoIterator<Item = Value>,
    stop: &CancellationToken,
) -> Result<bool, CallError> {
    let deadline = Instant::now() + API_SERVER_DEADLINE;
    for definition in definitions {
        while let Err(error) = kinds.install(&definition).await {
            if !error.is_passing() || deadline <= Instant::now() {
                return Err(error);
            }
            warn!(%error, "the API server does not answer; trying again in {API_SERVER_PAUSE:?}");
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = sleep(API_SERVER_PAUSE) => {}
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    /// Fails with these errors, then installs everything.
    #[derive(Default)]
    struct FakeKinds {
        errors: Mutex<Vec<CallError>>,
        attempts: AtomicUsize,
    }

    impl ApiKinds for FakeKinds {
        fn find<'a>(
            &'a self,
            _: &'a str,
            _: &'a [KindName],
        ) -> BoxedFuture<'a, Result<Option<KindFromArgument>, CallError>> {
            unreachable!("nothing is found by name here")
        }

        fn is_namespaced<'a>(
            &'a self,
            _: &'a KindName,
        ) -> BoxedFuture<'a, Result<bool, CallError>> {
            unreachable!("no scope is read here")
        }

        fn install<'a>(&'a self, _: &'a Value) -> BoxedFuture<'a, Result<(), CallError>> {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            let error = self.errors.lock().unwrap().pop();
            Box::pin(async { error.map_or(Ok(()), Err) })
        }

        fn missing(&self) -> Vec<KindName> {
            Vec::new()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_tried_again_and_a_refusal_is_not() {
        let away = || CallError::Transient("connection refused".to_owned());
        let denied = || CallError::Denied("no create".to_owned());
        let rows = [
            (Vec::new(), Ok(true), 2),
            (vec![away(), away()], Ok(true), 4),
            (vec![denied()], Err(denied()), 1),
            (vec![away(); 1000], Err(away()), 301),
        ];
        for (errors, expected, attempts) in rows {
            let kinds = FakeKinds { errors: Mutex::new(errors), ..FakeKinds::default() };
            let stop = CancellationToken::new();
            let installed = install_when_available(&kinds, [json!(1), json!(2)], &stop).await;
            assert_eq!(installed, expected);
            assert_eq!(kinds.attempts.load(Ordering::Relaxed), attempts);
        }
        let stop = CancellationToken::new();
        stop.cancel();
        let kinds = FakeKinds { errors: Mutex::new(vec![away()]), ..FakeKinds::default() };
        assert_eq!(install_when_available(&kinds, [json!(1)], &stop).await, Ok(false));
    }
}
