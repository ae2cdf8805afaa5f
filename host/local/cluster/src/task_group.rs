//! The tasks of a local host, in groups that are stopped together.

use std::error::Error;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Why a task ended.
pub(crate) type PartError = Box<dyn Error + Send + Sync>;

/// A group of tasks that are stopped together.
pub(crate) struct TaskGroup {
    stop: CancellationToken,
    tasks: JoinSet<(String, Result<(), PartError>)>,
}

impl TaskGroup {
    pub(crate) fn new() -> Self {
        Self { stop: CancellationToken::new(), tasks: JoinSet::new() }
    }

    /// Returns the token that tells the tasks to stop.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. An error that it returns is the reason of its end.
    pub(crate) fn spawn(
        &mut self,
        part: impl Into<String>,
        run: impl Future<Output = Result<(), PartError>> + Send + 'static,
    ) {
        let part = part.into();
        self.tasks.spawn(async move { (part, run.await) });
    }

    /// Waits until a task ends; waits forever while there is none.
    pub(crate) async fn ended(&mut self) -> EndedTask {
        let (name, source) = match self.tasks.join_next().await {
            None => return std::future::pending().await,
            Some(Ok((name, Ok(())))) => (name, "it was not told to stop".into()),
            Some(Ok((name, Err(source)))) => (name, source),
            Some(Err(error)) => ("a task".to_owned(), error.into()),
        };
        EndedTask { name, source }
    }

    /// Tells all tasks to stop and joins them. Tasks that do not end in time are aborted.
    pub(crate) async fn finish(&mut self, deadline: Duration) {
        self.stop.cancel();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(deadline, drain).await.is_err() {
            warn!(left = self.tasks.len(), "parts did not stop in time");
            self.tasks.shutdown().await;
        }
    }
}

/// A task that ended.
pub(crate) struct EndedTask {
    /// The name of the task.
    pub(crate) name: String,
    /// Why it ended.
    pub(crate) source: PartError,
}
