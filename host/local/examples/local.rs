//! A local host without the engine, for trying this crate by hand: `local DIRECTORY [BLOCK]`, and
//! `local container SPEC`, which its agents start themselves.

use std::process::ExitCode;

use tholepin_agent::{START_FAILED_EXIT_CODE, container_main};
use tholepin_local::{LocalOptions, start};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (directory, block) = match words.as_slice() {
        ["container", spec] => match container_main(spec.as_ref()) {
            Ok(never) => match never {},
            Err(_) => return ExitCode::from(u8::try_from(START_FAILED_EXIT_CODE).unwrap_or(1)),
        },
        [directory] => (*directory, None),
        [directory, block] => (*directory, block.parse().ok()),
        _ => ("/dev/null/usage: local DIRECTORY [BLOCK]", None),
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Runtime::new();
    let result =
        runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(directory, block)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the local host ended");
            ExitCode::FAILURE
        }
    }
}

async fn run(directory: &str, block: Option<u8>) -> Result<(), Box<dyn std::error::Error>> {
    let mut options = LocalOptions::new(directory, std::env::current_exe()?);
    options.block = block;
    let (mut end, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut cluster = start(options).await?;
    tracing::info!(kubeconfig = %cluster.kubeconfig.display(), "ready");
    let failed = tokio::select! {
        error = cluster.wait() => Some(error),
        _ = end.recv() => None,
        _ = interrupt.recv() => None,
    };
    cluster.shutdown().await;
    failed.map_or(Ok(()), |error| Err(error.into()))
}
