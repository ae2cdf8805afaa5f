//! `tholepin demo`: starts a local cluster with an example RedisCluster, and prints its stages.

mod stages;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    process::Command,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::stages::DemoProgressPrinter;
use super::{local, print, print_error, stop_on_signal};
use crate::{cli::DemoArgs, exit};

/// The example that is applied.
const EXAMPLE: &str = include_str!("../../../examples/demo.yaml");
/// The password of the example, as the file has it in clear text.
const PASSWORD: &str = "tholepin";
/// How long the cluster may take to become Ready, from the start of the local host.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// How long one `redis-cli` may take.
const REDIS_CLI_DEADLINE: Duration = Duration::from_secs(10);
/// The pause between two reads of the API server.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs the demo to its end.
///
/// # Errors
///
/// Fails if a part does not start, or ends by itself.
pub(crate) async fn run(arguments: DemoArgs) -> Result<u8> {
    let DemoArgs { cluster, listen, plugins, ci, log: _ } = arguments;
    let mut signals = JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let start = Instant::now();
    print("Starting the local host: API server, three nodes, and the host with its plugins.\n")?;
    let mut running = local::start(&cluster, |options| options.discard_volumes = true).await?;
    running.on_compilation = stages::show_compilation;
    let kubeconfig = running.cluster.kubeconfig.clone();
    print(&format!("  kubeconfig  {}\n", kubeconfig.display()))?;
    let engine_stop = stop.child_token();
    let result = tokio::select! {
        result = running.with_engine(plugins.clone(), listen, engine_stop.clone(), || Ok(())) => {
            result.map(|()| exit::DONE)
        }
        code = show(&kubeconfig, &plugins, start, ci, stop.clone()) => code,
    };
    engine_stop.cancel();
    if !ci {
        print("\nStopping everything that the demo started.\n")?;
    }
    running.end().await;
    result
}

/// Applies the example and waits until it is Ready; without `ci` then waits for the stop.
async fn show(
    kubeconfig: &Path,
    plugins: &Path,
    start: Instant,
    ci: bool,
    stop: CancellationToken,
) -> Result<u8> {
    let left = READY_DEADLINE.saturating_sub(start.elapsed());
    let ready = tokio::select! {
        ready = timeout(left, become_ready(kubeconfig)) => ready,
        () = stop.cancelled() => return Ok(exit::DONE),
    };
    let address = match ready {
        Ok(address) => address?,
        Err(_) if ci => {
            print_error(&anyhow::anyhow!("not Ready within {} s", READY_DEADLINE.as_secs()));
            return Ok(exit::NOT_READY);
        }
        Err(_) => bail!("not Ready within {} s; see the log above", READY_DEADLINE.as_secs()),
    };
    write_and_read(&address).await?;
    print(&format!(
        "Ready after {:.1} s; a write and a read went through.\n",
        start.elapsed().as_secs_f32()
    ))?;
    if !ci {
        print(&next_steps(kubeconfig, plugins, &address))?;
        stop.cancelled().await;
    }
    Ok(exit::DONE)
}

/// Waits until the cluster is Ready, and returns the address of its client Service.
async fn become_ready(kubeconfig: &Path) -> Result<(String, u16)> {
    let mut stages = DemoProgressPrinter::connect(kubeconfig).await?;
    stages.plugin_active("redis-cluster").await?;
    stages.apply(EXAMPLE).await?;
    stages.cluster_ready("default", "demo").await
}

async fn write_and_read((ip, port): &(String, u16)) -> Result<()> {
    let value = format!("{:x}", rand::random::<u64>());
    redis_cli(ip, *port, &["SET", "demo:greeting", &value]).await?;
    let read = redis_cli(ip, *port, &["GET", "demo:greeting"]).await?;
    anyhow::ensure!(read == value, "wrote `{value}` and read `{read}`");
    Ok(())
}

async fn redis_cli(ip: &str, port: u16, command: &[&str]) -> Result<String> {
    let mut program = Command::new("redis-cli");
    program.args(["-c", "-h", ip, "-p", &port.to_string()]).args(command);
    program.env("REDISCLI_AUTH", PASSWORD).kill_on_drop(true);
    let output = timeout(REDIS_CLI_DEADLINE, program.output()).await;
    let output = output
        .context("redis-cli does not answer")?
        .context("cannot run redis-cli; run ./setup")?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let refused =
        !output.status.success() || text.starts_with("ERR") || text.starts_with("(error)");
    anyhow::ensure!(!refused, "redis-cli {}: {text}", command.join(" "));
    Ok(text)
}

/// Returns the text that suggests what to try with the running cluster.
fn next_steps(kubeconfig: &Path, plugins: &Path, (ip, port): &(String, u16)) -> String {
    let kubeconfig = kubeconfig.display();
    let plugins = plugins.display();
    let has_kubectl = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("kubectl").exists()));
    let optional =
        if has_kubectl { "" } else { "   (optional: there is no kubectl on this machine)" };
    format!(
        "
The cluster answers on {ip}:{port}. Three things to try, each in another terminal:

  REDISCLI_AUTH={PASSWORD} redis-cli -c -h {ip} -p {port} SET hello world

  kubectl --kubeconfig {kubeconfig} get redisclusters,plugins,pods{optional}

  change HEALTHY_REQUEUE_MS in plugins/redis-cluster/plan/src/lib.rs of the source tree, run there
  `make plugins PLUGINS={plugins}`, and watch: the new code is active in about a second, and no Redis restarts

Ctrl-C stops everything.
"
    )
}

/// Waits between two reads of the API server.
pub(super) async fn pause() {
    sleep(PAUSE).await;
}

/// Returns the string at a JSON pointer, or an empty one.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
