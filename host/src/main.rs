//! The `tholepin` binary: the command line, its output, and the wiring of the parts.

mod adapters;
mod admin;
mod admin_routes;
mod cli;
mod commands;
mod completion;
mod engine;
mod exit;
mod health;
mod metrics;
mod plugin_kind;
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
    // The first process of a container changes its mount namespace, which must happen before any thread starts.
    if let Command::Container { spec } = &cli.command {
        return commands::container::run(spec);
    }
    match commands::run(cli) {
        Ok(code) => exit::code(code),
        Err(error) => {
            commands::print_error(&error);
            exit::code(exit::FAILED)
        }
    }
}

/// Prints the usage error, or the requested help.
fn refuse(error: &clap::Error) -> ExitCode {
    // If the stream is closed, only the exit code reports the error.
    error.print().ok();
    exit::code(exit::of_usage(error))
}
