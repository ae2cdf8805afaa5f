//! The embedded API server, tested through kube's client and the real kubectl.
//!
//! Every test has an in-memory server of its own, on a free port of an address that no other test program
//! uses. The server ends with the test's runtime, also when the test fails.
#![cfg(test)]

#[path = "api_server/authentication.rs"]
mod authentication;
#[path = "api_server/crds.rs"]
mod crds;
#[path = "api_server/deletion.rs"]
mod deletion;
#[path = "api_server/fixture.rs"]
mod fixture;
#[path = "api_server/kubectl.rs"]
mod kubectl;
#[path = "api_server/lists.rs"]
mod lists;
#[path = "api_server/objects.rs"]
mod objects;
#[path = "api_server/patches.rs"]
mod patches;
#[path = "api_server/watches.rs"]
mod watches;
