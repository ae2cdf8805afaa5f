//! Black-box scenarios on real processes: a cluster, a host and Redis servers. Each scenario prints what it
//! measured with the bound beside it, and fails at more than three times the bound. Four oracles judge each.
//!
//! ```text
//! cargo test -p tests --test scenarios                     the core, as `make test` runs it
//! cargo test -p tests --test scenarios -- --all            core and spine, about ten minutes
//! cargo test -p tests --test scenarios -- --only F1,F7     these; F1 stands for F1a, F1b and so on
//! cargo test -p tests --test scenarios -- --only W         a whole series, by its letter
//! cargo test -p tests --test scenarios -- --list           the names, with the options before it
//! ```
//!
//! Three series take longer and run only by name (`--only W,K,L`): W, faults of the surroundings (API server,
//! disk, clock); K, the host killed at every write; L, load and growth.
//!
//! Scenarios run one after the other, because they measure. That is why this target has a `main` of its own:
//! cargo's harness would run them at the same time.

#[path = "scenarios/basics.rs"]
mod basics;
#[path = "scenarios/configuration.rs"]
mod configuration;
#[path = "scenarios/denied.rs"]
mod denied;
#[path = "scenarios/engine.rs"]
mod engine;
#[path = "scenarios/growth.rs"]
mod growth;
#[path = "scenarios/healing.rs"]
mod healing;
#[path = "scenarios/killed.rs"]
mod killed;
#[path = "scenarios/load.rs"]
mod load;
#[path = "scenarios/objects.rs"]
mod objects;
#[path = "scenarios/plan.rs"]
mod plan;
#[path = "scenarios/swap.rs"]
mod swap;
#[path = "scenarios/world.rs"]
mod world;

use std::{
    env,
    future::Future,
    io::{self, Write},
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tests::oracle::WriterReport;

/// How many times its bound a scenario may take, because the machine may do other things too.
const SLACK: f64 = 3.0;
/// After this time a scenario has failed, whatever it waits for.
const GIVE_UP: Duration = Duration::from_secs(240);
/// The same for a scenario of a series, which repeats its steps many times.
const GIVE_UP_SERIES: Duration = Duration::from_secs(900);

/// The result of one scenario.
pub(crate) struct ScenarioResult {
    /// A short name of the measured time.
    what: &'static str,
    /// The measured time.
    took: Duration,
    /// How long that may take on an idle machine.
    bound: Duration,
    /// Further measurements to print.
    notes: Vec<String>,
    /// The injected fault and what was observed, for the table at the end.
    fault: Option<(&'static str, String)>,
}

impl ScenarioResult {
    /// Creates a result with the writer's report.
    pub(crate) fn new(
        what: &'static str,
        took: Duration,
        bound_s: f64,
        report: &WriterReport,
    ) -> Self {
        let WriterReport { acknowledged, lost, longest_outage } = report;
        let writer = format!(
            "writer: {acknowledged} acknowledged, {} lost, longest outage {:.2} s",
            lost.len(),
            longest_outage.as_secs_f64()
        );
        Self {
            what,
            took,
            bound: Duration::from_secs_f64(bound_s),
            notes: vec![writer],
            fault: None,
        }
    }

    /// Adds the injected fault and what was observed.
    pub(crate) fn fault(self, fault: &'static str, seen: String) -> Self {
        Self { fault: Some((fault, seen)), ..self }
    }

    /// Adds a further measurement.
    pub(crate) fn note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }
}

type ScenarioReport = Pin<Box<dyn Future<Output = Result<ScenarioResult>>>>;

/// Which selection a scenario belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ScenarioGroup {
    /// Runs in `make test`.
    Core,
    /// Runs with `--all`.
    Spine,
    /// Runs only by name.
    Series,
}

/// A row of the table of scenarios.
struct Scenario {
    name: &'static str,
    group: ScenarioGroup,
    run: fn() -> ScenarioReport,
}

macro_rules! scenario {
    ($name:literal, $group:ident, $run:path) => {
        Scenario { name: $name, group: ScenarioGroup::$group, run: || Box::pin($run()) }
    };
}

const SCENARIOS: &[Scenario] = &[
    scenario!("A1", Core, basics::three_shards_are_created),
    scenario!("A2", Spine, basics::a_lone_primary_is_created),
    scenario!("A6", Spine, basics::nothing_happens),
    scenario!("F1a", Core, healing::a_primary_is_killed),
    scenario!("F1b", Core, healing::a_primary_s_pod_is_deleted),
    scenario!("F1c", Spine, healing::a_primary_with_storage_is_killed),
    scenario!("F1d", Spine, healing::a_primary_s_pod_with_storage_is_deleted),
    scenario!("F7", Spine, healing::a_replica_hangs),
    scenario!("F9", Core, healing::a_replica_is_forgotten),
    scenario!("F9b", Spine, healing::a_primary_is_forgotten),
    scenario!("P1", Spine, plan::a_forgotten_replica_is_planned_for),
    scenario!("P2", Spine, plan::a_replica_of_the_wrong_primary_is_planned_for),
    scenario!("U7", Spine, configuration::settings_are_refused_and_rolled_by_hand),
    scenario!("U14", Spine, swap::the_policy_is_swapped_while_a_primary_dies),
    scenario!("E1", Core, engine::the_plugin_is_overwritten_twenty_times),
    scenario!("E2", Spine, engine::bad_plugins_are_refused),
    scenario!("E3", Core, engine::a_plugin_misbehaves_on_one_object),
    scenario!("E4", Spine, denied::every_import_is_denied),
    scenario!("E9", Spine, load::live_events_overtake_a_swap),
    scenario!("W1", Series, world::the_api_server_is_away_for_ten_seconds),
    scenario!("W2", Series, world::the_api_server_is_away_for_a_minute),
    scenario!("W3", Series, world::watches_have_expired),
    scenario!("W4", Series, world::watches_hang),
    scenario!("W5", Series, world::the_api_server_hangs),
    scenario!("W6", Series, world::a_primary_hangs),
    scenario!("W7", Series, world::a_replica_is_slow),
    scenario!("W8", Series, world::the_disk_is_full),
    scenario!("W9", Series, world::the_clock_jumps),
    scenario!("K1", Series, killed::after_each_write_of_a_creation),
    scenario!("K2", Series, killed::before_each_write_of_a_creation),
    scenario!("K3", Series, killed::after_each_write_of_a_heal),
    scenario!("K4", Series, killed::before_each_write_of_a_heal),
    scenario!("K5", Series, killed::at_each_write_to_redis),
    scenario!("L1", Series, load::two_plugins_share_the_host),
    scenario!("L2", Series, load::fifty_clusters),
    scenario!("L3", Series, growth::a_cluster_comes_and_goes),
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_line(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let chosen = chosen(&arguments)?;
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|scenario| print_line(&format!("{}: test", scenario.name)));
        return Ok(true);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let start = Instant::now();
    let (mut failed, mut faults) = (Vec::new(), Vec::new());
    for scenario in &chosen {
        let limit = if scenario.group == ScenarioGroup::Series { GIVE_UP_SERIES } else { GIVE_UP };
        let result =
            runtime.block_on(async { tokio::time::timeout(limit, (scenario.run)()).await });
        let result = result.unwrap_or_else(|_| bail!("not finished after {limit:?}"));
        let judged = result.and_then(|mut outcome| {
            if let Some((fault, seen)) = outcome.fault.take() {
                let took_s = outcome.took.as_secs_f64();
                faults.push(format!("{}  {fault} → {seen} → {took_s:.1} s", scenario.name));
            }
            judge(scenario.name, &outcome)
        });
        if let Err(error) = judged {
            print_line(&format!("{} FAILED: {error:#}", scenario.name));
            failed.push(scenario.name);
        }
    }
    if !faults.is_empty() {
        print_line("fault → what was observed → how long until healthy again");
        faults.iter().for_each(|fault| print_line(fault));
    }
    let (count, took) = (chosen.len(), start.elapsed().as_secs());
    print_line(&format!("{count} scenarios in {took} s, failed: {}", failed.len()));
    Ok(failed.is_empty())
}

/// Returns the scenarios that the arguments select. The options of cargo's own harness are accepted: an argument
/// without `-` keeps the scenarios whose name contains it, and unknown options are ignored.
fn chosen(arguments: &[String]) -> Result<Vec<&'static Scenario>> {
    let mut remaining = arguments.iter();
    let up_to =
        |group: ScenarioGroup| SCENARIOS.iter().filter(move |scenario| scenario.group <= group);
    let mut chosen: Vec<_> = up_to(ScenarioGroup::Core).collect();
    while let Some(argument) = remaining.next() {
        match argument.as_str() {
            "--all" => chosen = up_to(ScenarioGroup::Spine).collect(),
            "--only" => {
                let names = remaining.next().context("--only needs names, such as F1a,F7")?;
                return names.split(',').map(named).collect::<Result<Vec<_>>>().map(|n| n.concat());
            }
            "--test-threads" | "--skip" => drop(remaining.next()),
            option if option.starts_with('-') => {}
            part => chosen.retain(|scenario| scenario.name.contains(part)),
        }
    }
    Ok(chosen)
}

fn named(selector: &str) -> Result<Vec<&'static Scenario>> {
    let is_series = !selector.is_empty() && selector.chars().all(|one| one.is_ascii_uppercase());
    let matches = |name: &str| {
        let rest = name.strip_prefix(selector);
        let is_variant = |rest: &str| rest.chars().all(|letter| letter.is_ascii_lowercase());
        rest.is_some_and(|rest| is_series || is_variant(rest))
    };
    let found: Vec<_> = SCENARIOS.iter().filter(|scenario| matches(scenario.name)).collect();
    let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    ensure!(!found.is_empty(), "there is no scenario `{selector}`; there are {}", names.join(", "));
    Ok(found)
}

fn judge(name: &str, outcome: &ScenarioResult) -> Result<()> {
    let ScenarioResult { what, took, bound, notes, fault: _ } = outcome;
    let (took_s, bound_s) = (took.as_secs_f64(), bound.as_secs_f64());
    print_line(&format!("{name} {what} {took_s:.2} s (bound {bound_s} s); {}", notes.join("; ")));
    ensure!(
        *took <= bound.mul_f64(SLACK),
        "{what} took {took_s:.2} s, more than {SLACK} times its bound of {bound_s} s"
    );
    Ok(())
}

pub(crate) fn print_line(line: &str) {
    // An error means that the reader closed the pipe.
    writeln!(io::stdout(), "{line}").ok();
}
