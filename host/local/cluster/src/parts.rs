//! The tasks of a local host, in groups that stop together.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Tasks that stop together.
pub(crate) struct Parts {
    stop: CancellationToken,
    tasks: JoinSet<(String, Result<(), String>)>,
}

impl Parts {
    pub(crate) fn new() -> Self {
        Self { stop: CancellationToken::new(), tasks: JoinSet::new() }
    }

    /// What tells the parts to stop.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs a part, which ends with a reason on one line.
    pub(crate) fn spawn(
        &mut self,
        part: impl Into<String>,
        run: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let part = part.into();
        self.tasks.spawn(async move { (part, run.await) });
    }

    /// Waits until a part ends; for ever while there is none.
    pub(crate) async fn ended(&mut self) -> EndedPart {
        let (name, reason) = match self.tasks.join_next().await {
            None => return std::future::pending().await,
            Some(Ok((name, Ok(())))) => (name, "nobody told it to".to_owned()),
            Some(Ok((name, Err(reason)))) => (name, reason),
            Some(Err(error)) => ("a task".to_owned(), error.to_string()),
        };
        EndedPart { name, reason }
    }

    /// Tells all to stop and joins them; whoever does not end in time is dropped.
    pub(crate) async fn finish(&mut self, deadline: Duration) {
        self.stop.cancel();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(deadline, drain).await.is_err() {
            warn!(left = self.tasks.len(), "parts did not stop in time");
            self.tasks.shutdown().await;
        }
    }
}

/// A part that ended.
pub(crate) struct EndedPart {
    /// Which part.
    pub(crate) name: String,
    /// Why, on one line.
    pub(crate) reason: String,
}
