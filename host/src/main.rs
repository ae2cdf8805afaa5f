//! The `tholepin` binary: command line and wiring, no logic.

mod adapters;
mod admin;
mod admin_routes;
mod cli;
mod commands;
mod completion;
mod engine;
mod exit;
mod health;
mod instance;
mod metrics;
mod planner;
mod plugin_follower;
mod plugin_objects;
mod plugin_status;
mod status;
mod telemetry;
mod user_files;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    if completion::answered(Cli::command) {
        return exit::code(exit::DONE);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
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

/// Prints what is wrong with the command line, or the help that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    // Nobody can be told if the stream is closed; the exit code says it too.
    error.print().ok();
    exit::code(exit::of_usage(error))
}
