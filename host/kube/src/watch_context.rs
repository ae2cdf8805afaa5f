//! The options of the watch hub, and the state that all watches share.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{sync::Notify, time::sleep};

use crate::{
    fingerprint::SecretFingerprinter, kinds::KindDiscoveryCache, secrets::SecretCache,
    store::WatchedObjectStore,
};

/// The timing of the watches of the hub.
#[derive(Clone, Copy, Debug)]
pub struct WatchHubOptions {
    /// How long a watch continues after its last lease was dropped.
    pub linger: Duration,
    /// The shortest and the longest pause between two discovery requests for a missing kind.
    pub missing_kind_pause: (Duration, Duration),
    /// The shortest and the longest pause after a failure.
    pub failure_pause: (Duration, Duration),
    /// The number of seconds after which the server ends a watch request; the next request continues from the
    /// last resource version. A watch that receives nothing for five seconds longer than this counts as hung
    /// and is restarted, which bounds how long a dead connection that was not closed can go unnoticed.
    pub watch_lasts_seconds: u32,
}

impl Default for WatchHubOptions {
    /// 30 s; 1 s to 30 s; 0.5 s to 5 s; 30 s.
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(30),
            missing_kind_pause: (Duration::from_secs(1), Duration::from_secs(30)),
            // At most 5 s, so that the watches continue soon after the API server answers again.
            failure_pause: (Duration::from_millis(500), Duration::from_secs(5)),
            watch_lasts_seconds: 30,
        }
    }
}

/// The state that all watches share.
pub(crate) struct WatchHubContext {
    pub(crate) client: Client,
    pub(crate) store: Arc<WatchedObjectStore>,
    pub(crate) kinds: Arc<KindDiscoveryCache>,
    pub(crate) fingerprinter: SecretFingerprinter,
    pub(crate) secrets: Arc<SecretCache>,
    pub(crate) options: WatchHubOptions,
    /// Notified when a watch that had failed follows again.
    pub(crate) resumed: Notify,
}

impl WatchHubContext {
    /// Waits after a failure for the pause, or until another watch follows again if that is earlier. The
    /// server then answers again, and all watches must catch up together: otherwise the new objects of one
    /// kind are compared with objects of another kind that are seconds old.
    pub(crate) async fn wait_after_failure(&self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            () = self.resumed.notified() => {}
        }
    }
}
