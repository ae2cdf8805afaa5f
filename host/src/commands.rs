//! The subcommands: each passes its arguments to the part that does the work.

pub(crate) mod container;
mod demo;
mod doctor;
mod local;
mod manual;
mod plan;
mod plugin;
mod status;
mod table;
mod text_style;

use std::{
    future::Future,
    io::{self, Write},
};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Cli, Command, LoggingArgs, RunArgs, default_concurrency},
    engine::{self, EngineOptions},
    exit, telemetry,
};

/// Runs a subcommand to its end and gives the exit code.
///
/// # Errors
///
/// Fails with what is printed as the last line on stderr.
pub(crate) fn run(cli: Cli) -> Result<u8> {
    // `local` and `run` report through the log, the other commands through their output.
    let is_server = matches!(cli.command, Command::Local(_) | Command::Run(_));
    let default = if is_server { "info" } else { "warn" };
    let LoggingArgs { log, log_format } = match cli.command.log() {
        Some(log) => log.clone(),
        None => LoggingArgs::of_environment()?,
    };
    telemetry::start(log.as_deref().unwrap_or(default), log_format)?;
    match cli.command {
        Command::Local(arguments) => on_runtime(default_concurrency(), local::run(arguments)),
        Command::Run(arguments) => on_runtime(arguments.engine.computing(), run_engine(arguments)),
        Command::Demo(arguments) => on_runtime(default_concurrency(), demo::run(arguments)),
        Command::Plan(arguments) => on_runtime(1, plan::plan(arguments)),
        Command::Calls(arguments) => on_runtime(1, plan::calls(arguments)),
        Command::Status(arguments) => on_runtime(1, status::run(arguments)),
        Command::Plugin(command) => on_runtime(1, plugin::run(command)),
        Command::Crds => {
            print(&tholepin_crd::definitions_yaml()?)?;
            Ok(exit::DONE)
        }
        Command::Doctor(arguments) => on_runtime(1, doctor::run(arguments)),
        Command::Completions { shell } => {
            manual::completions(shell)?;
            Ok(exit::DONE)
        }
        Command::Man { directory } => {
            manual::pages(&directory)?;
            Ok(exit::DONE)
        }
        // `main` handles this command before any thread starts.
        Command::Container { .. } => Ok(exit::FAILED),
    }
}

/// Prints a result on stdout.
///
/// # Errors
///
/// Fails if stdout is closed.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints an error with its causes as the last line on stderr.
pub(crate) fn print_error(error: &anyhow::Error) {
    let chain = tholepin_core::ErrorChain(error.as_ref());
    // If stderr is closed, only the exit code reports the error.
    writeln!(io::stderr(), "tholepin: {chain}").ok();
}

/// Returns a token that SIGINT and SIGTERM cancel.
///
/// # Errors
///
/// Fails if the signals cannot be received.
pub(crate) fn stop_on_signal(tasks: &mut tokio::task::JoinSet<()>) -> Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot receive SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot receive SIGTERM")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

/// Runs a command on a runtime with a thread per guest that computes, and two more for I/O, so that an event need not
/// wait until a guest yields.
fn on_runtime(computing: u16, command: impl Future<Output = Result<u8>>) -> Result<u8> {
    let workers = usize::from(computing) + 2;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(workers).enable_all().build()?.block_on(command)
}

async fn run_engine(arguments: RunArgs) -> Result<u8> {
    let mut signals = tokio::task::JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let options = EngineOptions {
        kubeconfig: arguments.cluster.kubeconfig,
        arguments: arguments.engine,
        keeps_history: true,
        on_compilation: engine::log_compilation,
        trusts_plugins: arguments.trust_plugins,
    };
    engine::run(options, arguments.listen, stop, || print("ready\n")).await?;
    Ok(exit::DONE)
}
