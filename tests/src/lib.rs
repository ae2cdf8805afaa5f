//! The harness of the tests of the whole product.
//!
//! A test starts a local cluster ([`cluster`]) from the real `tholepin` binary as two processes: the cluster
//! and the host. [`environment`] adds the plugins, a RedisCluster ([`redis_cluster`]) and the four oracles
//! ([`oracle`]) that judge every scenario. [`wait::until`] is how a test waits for a condition.
//!
//! Guarantees:
//! - Each cluster has addresses and directories of its own, so tests can run side by side.
//! - All that a test starts ends with the value that started it, also when the test fails or is killed.
//! - No test waits by a fixed sleep: it polls a condition with a deadline ([`wait`]).

pub mod api_proxy;
pub mod cluster;
pub mod command;
pub mod environment;
pub mod faked_clock;
pub mod guests;
pub mod http;
pub mod imports;
pub mod keys;
pub mod kubectl;
pub mod member;
pub mod oracle;
pub mod process;
pub mod prometheus;
pub mod redis_cluster;
pub mod router;
pub mod selection;
pub mod transcript;
pub mod wait;
