//! The deadlines and bounds of this crate.

use std::time::Duration;

use tholepin_schema::instance::INSTANCES_PER_OBJECT_MAX;

/// The deadlines and bounds of the port.
///
/// Any combination is valid, so the fields are public.
#[derive(Clone, Copy, Debug)]
pub struct RedisClientLimits {
    /// The deadline for opening and authenticating a connection.
    pub dial: Duration,
    /// The deadline for reading one member for a snapshot, including dialling.
    pub observe: Duration,
    /// The deadline for one command of a verb, including dialling.
    pub step: Duration,
    /// The deadline from `CLUSTER FAILOVER` to changed roles. Redis gives up a manual failover after 5 s.
    pub failover: Duration,
    /// The interval of reads while waiting for roles to change.
    pub failover_poll: Duration,
    /// The time after which an unused connection is closed.
    pub idle: Duration,
    /// The most connections to one address with the same credentials, including idle ones.
    pub connections_per_address: usize,
    /// The most idle connections to all addresses together.
    pub idle_connections: usize,
    /// The poll interval of a watched instance.
    pub watch_interval: Duration,
    /// The poll interval of an instance with subscriptions.
    pub wait_interval: Duration,
    /// The most instances of one object that are polled.
    pub watched_instances_per_object: usize,
    /// The most instances of one plugin that are polled. There is no bound for all plugins together, because one plugin
    /// could use it up and blind the others; administrators decide how many plugins there are.
    pub watched_instances_per_plugin: usize,
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
            watched_instances_per_object: INSTANCES_PER_OBJECT_MAX,
            // A thousand objects (scenario E9) with two instances each.
            watched_instances_per_plugin: 2048,
        }
    }
}
