//! The `tholepin` binary: command line and wiring, no logic.

mod adapters;
mod admin;
mod cli;
mod commands;
mod engine;
mod exit;
mod metrics;
mod mirror;
mod telemetry;
mod vitals;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A container's first process changes its mount namespace, which it must do before any thread.
    if let Command::Container { spec } = &cli.command {
        return commands::container::run(spec);
    }
    match commands::run(cli) {
        Ok(code) => exit::code(code),
        Err(error) => {
            commands::complain(&error);
            exit::code(exit::FAILED)
        }
    }
}
