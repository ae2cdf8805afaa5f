//! Black-box scenarios on real processes: a cluster, a host and Redis servers. Each scenario prints what it
//! measured with the bound beside it, and fails at more than three times the bound. Four oracles judge each.
//!
//! ```text
//! cargo test -p tests --test scenarios                          the core, as `make test` runs it
//! cargo test -p tests --test scenarios -- --core                the same
//! cargo test -p tests --test scenarios -- --all                 core and spine, about ten minutes
//! cargo test -p tests --test scenarios -- --sample COMMIT 5     about five minutes of all others than the core
//! cargo test -p tests --test scenarios -- --only F1,F7          these; F1 stands for F1a, F1b and so on
//! cargo test -p tests --test scenarios -- --only W              a whole series, by its letter
//! cargo test -p tests --test scenarios -- --list                the names, with the options before it
//! ```
//!
//! Three series take longer: W, faults of the surroundings (API server, disk, clock); K, the host killed at every
//! write; L, load and growth. They run by name (`--only W,K,L`) and in samples. A sample is chosen by the commit's
//! hash: the same commit always selects the same scenarios, and each scenario is in the sample of some commits.
//!
//! A name without a scenario is an error, also where cargo passes the filter of another test target to this one.
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
#[path = "scenarios/surroundings.rs"]
mod surroundings;
#[path = "scenarios/swap.rs"]
mod swap;

use std::{
    env, fmt,
    future::Future,
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
pub(crate) use tests::selection::print_line;
use tests::{
    oracle::WriterReport,
    selection::{self, Arguments},
};

/// How many times its bound a scenario may take, because the machine may do other things too.
const SLACK: f64 = 3.0;
/// After this time a scenario has failed, whatever it waits for.
const GIVE_UP: Duration = Duration::from_secs(240);
/// The same for a scenario of a series, which repeats its steps many times.
const GIVE_UP_SERIES: Duration = Duration::from_secs(900);

/// A time with its bound.
struct Measurement {
    /// A short name of the time.
    what: &'static str,
    took: Duration,
    /// How long it may take on an idle machine.
    bound: Duration,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, took, bound } = self;
        write!(f, "{what} {:.2} s (bound {} s)", took.as_secs_f64(), bound.as_secs_f64())
    }
}

/// The result of one scenario.
pub(crate) struct ScenarioResult {
    /// The measured times; the first one is the scenario's main time.
    measured: Vec<Measurement>,
    /// Further measurements to print.
    notes: Vec<String>,
    /// The injected fault and what was observed, for the table at the end.
    fault: Option<(&'static str, String)>,
}

impl ScenarioResult {
    /// Creates a result with the main time, its bound in seconds, and the writer's report.
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
        let result = Self { measured: Vec::new(), notes: vec![writer], fault: None };
        result.bounded(what, took, bound_s)
    }

    /// Adds a time with its bound in seconds.
    pub(crate) fn bounded(mut self, what: &'static str, took: Duration, bound_s: f64) -> Self {
        self.measured.push(Measurement { what, took, bound: Duration::from_secs_f64(bound_s) });
        self
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
    /// Runs by name and in samples.
    Series,
}

/// A row of the table of scenarios.
struct Scenario {
    name: &'static str,
    group: ScenarioGroup,
    /// The expected time in seconds on an idle machine, by which samples are made up. These are estimates from the
    /// bounds and the number of repetitions, not measurements.
    expected_s: u64,
    run: fn() -> ScenarioReport,
}

macro_rules! scenario {
    ($name:literal, $group:ident, $expected_s:literal, $run:path) => {
        Scenario {
            name: $name,
            group: ScenarioGroup::$group,
            expected_s: $expected_s,
            run: || Box::pin($run()),
        }
    };
}

const SCENARIOS: &[Scenario] = &[
    scenario!("A1", Core, 30, basics::three_shards_are_created),
    scenario!("A2", Spine, 25, basics::a_lone_primary_is_created),
    scenario!("A6", Spine, 80, basics::nothing_changes_while_idle),
    scenario!("F1a", Core, 25, healing::a_primary_is_killed),
    scenario!("F1b", Core, 25, healing::a_primary_s_pod_is_deleted),
    scenario!("F1c", Spine, 25, healing::a_primary_with_storage_is_killed),
    scenario!("F1d", Spine, 25, healing::a_primary_s_pod_with_storage_is_deleted),
    scenario!("F7", Spine, 55, healing::a_replica_hangs),
    scenario!("F9", Core, 25, healing::a_replica_is_forgotten),
    scenario!("F9b", Spine, 25, healing::a_primary_is_forgotten),
    scenario!("P1", Spine, 25, plan::a_forgotten_replica_is_planned_for),
    scenario!("P2", Spine, 25, plan::a_replica_of_the_wrong_primary_is_planned_for),
    scenario!("U7", Spine, 90, configuration::settings_are_refused_and_rolled_by_hand),
    scenario!("U14", Spine, 35, swap::the_policy_is_swapped_while_a_primary_dies),
    scenario!("E1", Core, 60, engine::the_plugin_is_overwritten_twenty_times),
    scenario!("E2", Spine, 60, engine::bad_plugins_are_refused),
    scenario!("E3", Core, 60, engine::a_plugin_misbehaves_on_one_object),
    scenario!("E4", Spine, 30, denied::every_import_is_denied),
    scenario!("E9", Spine, 45, load::live_events_overtake_a_swap),
    scenario!("W1", Series, 45, surroundings::the_api_server_is_away_for_ten_seconds),
    scenario!("W2", Series, 95, surroundings::the_api_server_is_away_for_a_minute),
    scenario!("W3", Series, 45, surroundings::watches_have_expired),
    scenario!("W4", Series, 70, surroundings::watches_hang),
    scenario!("W5", Series, 45, surroundings::the_api_server_hangs),
    scenario!("W6", Series, 40, surroundings::a_primary_hangs),
    scenario!("W7", Series, 35, surroundings::a_replica_is_slow),
    scenario!("W8", Series, 30, surroundings::the_disk_is_full),
    scenario!("W9", Series, 60, surroundings::the_clock_jumps),
    scenario!("K1", Series, 300, killed::after_each_write_of_a_creation),
    scenario!("K2", Series, 300, killed::before_each_write_of_a_creation),
    scenario!("K3", Series, 240, killed::after_each_write_of_a_heal),
    scenario!("K4", Series, 240, killed::before_each_write_of_a_heal),
    scenario!("K5", Series, 300, killed::at_each_write_to_redis),
    scenario!("L1", Series, 90, load::two_plugins_share_the_host),
    scenario!("L2", Series, 150, load::fifty_clusters),
    scenario!("L3", Series, 420, growth::a_cluster_is_created_and_deleted_repeatedly),
];

fn main() -> ExitCode {
    selection::exit_code(run())
}

fn run() -> Result<bool> {
    let given: Vec<String> = env::args().skip(1).collect();
    let arguments = Arguments::parse(&given, OPTIONS)?;
    let chosen = chosen(&arguments)?;
    if arguments.is_list {
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
        let judged = result.and_then(|mut result| {
            if let Some((fault, seen)) = result.fault.take() {
                let took_s = result.measured.first().map_or(0.0, |main| main.took.as_secs_f64());
                faults.push(format!("{}  {fault} → {seen} → {took_s:.1} s", scenario.name));
            }
            judge(scenario.name, &result)
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

/// The options that select scenarios, with their numbers of values.
const OPTIONS: &[(&str, usize)] = &[("--core", 0), ("--all", 0), ("--sample", 2)];

/// Returns the scenarios that the arguments select: the core by default.
fn chosen(arguments: &Arguments) -> Result<Vec<&'static Scenario>> {
    let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name.to_owned()).collect();
    let up_to = |group: ScenarioGroup| -> Vec<_> {
        SCENARIOS.iter().filter(|scenario| scenario.group <= group).collect()
    };
    let selected = match &arguments.option {
        Some(("--all", _)) => up_to(ScenarioGroup::Spine),
        Some(("--sample", values)) => sample(values)?,
        None if !arguments.names.is_empty() => arguments.named(named, &known)?,
        _ => up_to(ScenarioGroup::Core),
    };
    arguments.without_skipped(selected, |scenario| scenario.name.to_owned(), &known)
}

/// Returns about so many minutes of the scenarios outside the core, chosen by a commit's hash.
fn sample(values: &[String]) -> Result<Vec<&'static Scenario>> {
    let [commit, minutes] = values else { bail!("--sample needs COMMIT and MINUTES") };
    let minutes: u32 = minutes.parse().with_context(|| format!("`{minutes}` minutes"))?;
    let others: Vec<_> =
        SCENARIOS.iter().filter(|scenario| scenario.group != ScenarioGroup::Core).collect();
    let budget = Duration::from_secs(60) * minutes;
    let expected = |scenario: &&Scenario| Duration::from_secs(scenario.expected_s);
    let sampled = selection::sample(&others, commit, budget, expected)?;
    let names: Vec<_> = sampled.iter().map(|scenario| scenario.name).collect();
    let total_s: u64 = sampled.iter().map(|scenario| scenario.expected_s).sum();
    print_line(&format!("sample for {commit}, about {total_s} s: {}", names.join(", ")));
    Ok(sampled)
}

/// Returns the scenarios of a name (`F1a`), a family of variants (`F1`) or a series (`W`).
fn named(selector: &str) -> Vec<&'static Scenario> {
    let is_series = !selector.is_empty() && selector.chars().all(|c| c.is_ascii_uppercase());
    let matches = |name: &str| {
        let rest = name.strip_prefix(selector);
        let is_variant = |rest: &str| rest.chars().all(|letter| letter.is_ascii_lowercase());
        rest.is_some_and(|rest| is_series || (!selector.is_empty() && is_variant(rest)))
    };
    SCENARIOS.iter().filter(|scenario| matches(scenario.name)).collect()
}

/// Prints a result, and checks every time against its bound.
fn judge(name: &str, result: &ScenarioResult) -> Result<()> {
    let measured: Vec<_> = result.measured.iter().map(ToString::to_string).collect();
    print_line(&format!("{name} {}; {}", measured.join("; "), result.notes.join("; ")));
    for measurement in &result.measured {
        let is_met = measurement.took <= measurement.bound.mul_f64(SLACK);
        ensure!(is_met, "more than {SLACK} times the bound: {measurement}");
    }
    Ok(())
}
