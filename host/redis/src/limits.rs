//! Every deadline and bound of this crate in one table.

use std::time::Duration;

/// How long things may take and how many there may be.
///
/// Any combination is valid, so the fields are public.
#[derive(Clone, Copy, Debug)]
pub struct RedisClientLimits {
    /// From the first packet to an authenticated connection.
    pub dial: Duration,
    /// One member's part in a snapshot, dialling included.
    pub observe: Duration,
    /// One step of a verb, dialling included.
    pub step: Duration,
    /// From `CLUSTER FAILOVER` to changed roles. Redis gives up a manual failover after 5 s.
    pub failover: Duration,
    /// Between two looks while waiting for roles to change.
    pub failover_poll: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// Connections to one address under one name, idle ones included.
    pub connections_per_address: usize,
    /// Idle connections over all addresses.
    pub idle_connections: usize,
    /// Between two looks of a watch.
    pub watch_interval: Duration,
    /// Between two looks while somebody waits for what they show.
    pub wait_interval: Duration,
    /// Instances watched at once.
    pub watched_instances: usize,
}

impl Default for RedisClientLimits {
    fn default() -> Self {
        Self {
            dial: Duration::from_millis(250),
            observe: Duration::from_millis(300),
            step: Duration::from_secs(2),
            failover: Duration::from_secs(5),
            failover_poll: Duration::from_millis(5),
            idle: Duration::from_secs(60),
            connections_per_address: 8,
            idle_connections: 1024,
            watch_interval: Duration::from_secs(1),
            wait_interval: Duration::from_millis(20),
            watched_instances: 4096,
        }
    }
}
