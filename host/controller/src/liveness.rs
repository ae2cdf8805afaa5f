//! Checks that the controller's loop still runs: the loop itself answers each ping.

use tokio::sync::{Notify, watch};

/// The state that the loop and those who ping it share.
#[derive(Debug, Default)]
pub(crate) struct ControllerLoopLiveness {
    pinged: Notify,
    answers: watch::Sender<u64>,
}

impl ControllerLoopLiveness {
    /// Answers pings; never ends. Runs as a part of the loop.
    pub(crate) async fn serve(&self) {
        loop {
            self.pinged.notified().await;
            self.answers.send_modify(|count| *count += 1);
        }
    }

    /// Waits until the loop has answered. Without a running loop this never ends: the caller sets the deadline.
    pub(crate) async fn ping(&self) {
        let mut answers = self.answers.subscribe();
        self.pinged.notify_one();
        // Cannot fail: the sender exists as long as `self`.
        answers.changed().await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn only_a_loop_that_runs_answers() {
        let liveness = ControllerLoopLiveness::default();
        assert!(timeout(Duration::ZERO, liveness.ping()).await.is_err(), "no loop runs");
        let pings = async { tokio::join!(liveness.ping(), liveness.ping()) };
        tokio::select! {
            () = liveness.serve() => {}
            answered = timeout(Duration::from_secs(5), pings) => assert_eq!(answered, Ok(((), ()))),
        }
    }
}
