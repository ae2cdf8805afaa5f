//! What the tests of the whole product share: a cluster of their own, made from the real binary as two
//! processes, and what watches it.
//!
//! Every test takes its addresses and directories from here and everything ends with the value that
//! started it, also when the test fails.

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
pub mod transcript;
pub mod wait;
