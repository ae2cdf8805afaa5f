//! The port to whatever else listens in a Pod.

use std::{net::SocketAddr, time::Duration};

use tholepin_schema::probe::ProbeOutcome;

use crate::BoxedFuture;

/// Asks a port whether somebody answers.
pub trait Prober: Send + Sync {
    /// Connects, and sends one HTTP GET of a path if one is given: it begins with `/` and holds nothing but
    /// visible ASCII. Ends within the deadline.
    fn probe<'a>(
        &'a self,
        address: SocketAddr,
        get: Option<&'a str>,
        deadline: Duration,
    ) -> BoxedFuture<'a, ProbeOutcome>;
}
