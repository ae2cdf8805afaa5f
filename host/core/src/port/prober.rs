//! The port to other listeners in a Pod.

use std::{net::SocketAddr, time::Duration};

use tholepin_schema::probe::NetworkProbeOutcome;

use crate::BoxedFuture;

/// Probes TCP ports.
pub trait PodPortProber: Send + Sync {
    /// Connects, and sends one HTTP GET if a path is given. The path begins with `/` and holds only visible ASCII. Ends
    /// within the deadline.
    fn probe<'a>(
        &'a self,
        address: SocketAddr,
        get: Option<&'a str>,
        deadline: Duration,
    ) -> BoxedFuture<'a, NetworkProbeOutcome>;
}
