//! What every watch works with, and how watches are treated.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{sync::Notify, time::sleep};

use crate::{
    fingerprint::SecretFingerprinter, kinds::KindCache, secrets::SecretCache, store::ObjectStore,
};

/// How the hub treats its watches.
#[derive(Clone, Copy, Debug)]
pub struct WatchHubOptions {
    /// How long a watch without leases goes on.
    pub linger: Duration,
    /// The shortest and the longest pause between two looks for a missing kind.
    pub missing_kind_pause: (Duration, Duration),
    /// The shortest and the longest pause after a failure.
    pub failure_pause: (Duration, Duration),
    /// After how many seconds the server ends a watch, which then goes on where it was. A watch that is
    /// silent for five seconds longer than this hangs and is given up: it is the bound on how long a
    /// connection that is dead and not closed can go unnoticed.
    pub watch_lasts_seconds: u32,
}

impl Default for WatchHubOptions {
    /// 30 s; 1 s to 30 s; 0.5 s to 5 s; 30 s.
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(30),
            missing_kind_pause: (Duration::from_secs(1), Duration::from_secs(30)),
            // No more than 5 s: an API server that is back must not wait for us long.
            failure_pause: (Duration::from_millis(500), Duration::from_secs(5)),
            watch_lasts_seconds: 30,
        }
    }
}

/// What all watches share.
pub(crate) struct WatchContext {
    pub(crate) client: Client,
    pub(crate) store: Arc<ObjectStore>,
    pub(crate) kinds: Arc<KindCache>,
    pub(crate) key: SecretFingerprinter,
    pub(crate) secrets: Arc<SecretCache>,
    pub(crate) options: WatchHubOptions,
    /// Told when a watch that had failed follows again.
    pub(crate) resumed: Notify,
}

impl WatchContext {
    /// Waits after a failure, until another watch follows again at the longest: then the server is back,
    /// and what one watch knows already must not be judged by what the next will know in seconds.
    pub(crate) async fn rest(&self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            () = self.resumed.notified() => {}
        }
    }
}
