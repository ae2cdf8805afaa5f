//! Tells whether the controller's loop is alive: whoever asks is answered by the loop itself.

use tokio::sync::{Notify, watch};

/// The loop's side and the asking side in one.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    asked: Notify,
    beats: watch::Sender<u64>,
}

impl Liveness {
    /// Answers for ever; a part of the loop.
    pub(crate) async fn serve(&self) {
        loop {
            self.asked.notified().await;
            self.beats.send_modify(|beats| *beats += 1);
        }
    }

    /// Waits until the loop has answered, which may be never: the caller sets the deadline.
    pub(crate) async fn ping(&self) {
        let mut beats = self.beats.subscribe();
        self.asked.notify_one();
        // The sender lives as long as `self`.
        beats.changed().await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn only_a_loop_that_runs_answers() {
        let pulse = Liveness::default();
        assert!(timeout(Duration::ZERO, pulse.ping()).await.is_err(), "nobody runs the loop");
        tokio::select! {
            () = pulse.serve() => {}
            felt = async { tokio::join!(pulse.ping(), pulse.ping()) } => assert_eq!(felt, ((), ())),
        }
    }
}
