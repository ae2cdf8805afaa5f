//! `tholepin-redis` against real servers: what a fake would only repeat is asked of Redis itself.
#![cfg(test)]

mod commands;
mod connections;
mod deciding;
mod failover;
mod formation;
mod road;
mod server;
mod snapshot;
mod watch;
