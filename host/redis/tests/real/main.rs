//! Tests of `tholepin-redis` with real Redis servers, because a fake would only repeat our assumptions.
#![cfg(test)]

mod commands;
mod connections;
mod deciding;
mod failover;
mod formation;
mod proxy;
mod server;
mod snapshot;
mod watch;
