//! Black-box stories on real processes: a cluster, a host and real Redis. Each prints what it measured
//! and asserts three times its bound; four oracles watch all through.
//!
//! ```text
//! cargo test -p tests --test scenarios                     the core, as `make test` runs it
//! cargo test -p tests --test scenarios -- --all            the whole list
//! cargo test -p tests --test scenarios -- --only F1,F7     these; F1 stands for F1a, F1b and so on
//! cargo test -p tests --test scenarios -- --list           their names
//! ```
//!
//! They run one after the other, because they measure. There is no other harness: it would run them side
//! by side.

#[path = "scenarios/basics.rs"]
mod basics;
#[path = "scenarios/engine.rs"]
mod engine;
#[path = "scenarios/healing.rs"]
mod healing;
#[path = "scenarios/objects.rs"]
mod objects;
#[path = "scenarios/plan.rs"]
mod plan;
#[path = "scenarios/swap.rs"]
mod swap;

use std::{
    env,
    future::Future,
    io::{self, Write},
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tests::oracle::Report;

/// How much slower than its bound a scenario may be on a machine that does other things too.
const SLACK: f64 = 3.0;
/// After this a scenario has failed, whatever it waits for.
const GIVE_UP: Duration = Duration::from_secs(240);

/// What a scenario measured.
pub(crate) struct Outcome {
    /// What was measured, in words.
    what: &'static str,
    /// How long it took.
    took: Duration,
    /// How long it may take on an idle machine.
    bound: Duration,
    /// What else is worth telling.
    notes: Vec<String>,
}

impl Outcome {
    /// An outcome with what the writer saw.
    pub(crate) fn new(what: &'static str, took: Duration, bound_s: f64, report: &Report) -> Self {
        let Report { acknowledged, lost, longest_outage } = report;
        let writer = format!(
            "writer: {acknowledged} acknowledged, {} lost, longest outage {:.2} s",
            lost.len(),
            longest_outage.as_secs_f64()
        );
        Self { what, took, bound: Duration::from_secs_f64(bound_s), notes: vec![writer] }
    }

    /// The same with one thing more to tell.
    pub(crate) fn note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }
}

type Told = Pin<Box<dyn Future<Output = Result<Outcome>>>>;

/// A scenario of the list.
struct Scenario {
    name: &'static str,
    is_core: bool,
    tell: fn() -> Told,
}

macro_rules! scenario {
    ($name:literal, $is_core:literal, $tell:path) => {
        Scenario { name: $name, is_core: $is_core, tell: || Box::pin($tell()) }
    };
}

const SCENARIOS: &[Scenario] = &[
    scenario!("A1", true, basics::three_shards_are_created),
    scenario!("A2", false, basics::a_lone_primary_is_created),
    scenario!("A6", false, basics::nothing_happens),
    scenario!("F1a", true, healing::a_primary_is_killed),
    scenario!("F1b", true, healing::a_primary_s_pod_is_deleted),
    scenario!("F1c", false, healing::a_primary_with_storage_is_killed),
    scenario!("F1d", false, healing::a_primary_s_pod_with_storage_is_deleted),
    scenario!("F7", false, healing::a_replica_hangs),
    scenario!("F9", true, healing::a_replica_is_forgotten),
    scenario!("F9b", false, healing::a_primary_is_forgotten),
    scenario!("P1", true, plan::a_forgotten_replica_is_planned_for),
    scenario!("P2", false, plan::a_replica_of_the_wrong_primary_is_planned_for),
    scenario!("U14", false, swap::the_policy_is_swapped_while_a_primary_dies),
    scenario!("E1", true, engine::the_plugin_is_overwritten_twenty_times),
    scenario!("E2", false, engine::bad_plugins_are_refused),
    scenario!("E3", true, engine::a_plugin_misbehaves_on_one_object),
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let chosen = chosen(&arguments)?;
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|scenario| say(&format!("{}: test", scenario.name)));
        return Ok(true);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let start = Instant::now();
    let mut failed = Vec::new();
    for scenario in &chosen {
        let told =
            runtime.block_on(async { tokio::time::timeout(GIVE_UP, (scenario.tell)()).await });
        let told = told.unwrap_or_else(|_| bail!("not at its end after {GIVE_UP:?}"));
        if let Err(error) = told.and_then(|outcome| judge(scenario.name, &outcome)) {
            say(&format!("{} FAILED: {error:#}", scenario.name));
            failed.push(scenario.name);
        }
    }
    let (count, took) = (chosen.len(), start.elapsed().as_secs());
    say(&format!("{count} scenarios in {took} s, failed: {}", failed.len()));
    Ok(failed.is_empty())
}

/// Which scenarios the arguments ask for. Other arguments are those of cargo's own harness: a word
/// chooses by part of a name, an option is ignored.
fn chosen(arguments: &[String]) -> Result<Vec<&'static Scenario>> {
    let mut words = arguments.iter();
    let mut chosen: Vec<_> = SCENARIOS.iter().filter(|scenario| scenario.is_core).collect();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--all" => chosen = SCENARIOS.iter().collect(),
            "--only" => {
                let names = words.next().context("--only needs names, such as F1a,F7")?;
                return names.split(',').map(named).collect::<Result<Vec<_>>>().map(|n| n.concat());
            }
            "--test-threads" | "--skip" => drop(words.next()),
            option if option.starts_with('-') => {}
            part => chosen.retain(|scenario| scenario.name.contains(part)),
        }
    }
    Ok(chosen)
}

fn named(wanted: &str) -> Result<Vec<&'static Scenario>> {
    let fits = |name: &str| {
        let rest = name.strip_prefix(wanted);
        rest.is_some_and(|rest| rest.chars().all(|letter| letter.is_ascii_lowercase()))
    };
    let found: Vec<_> = SCENARIOS.iter().filter(|scenario| fits(scenario.name)).collect();
    let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    ensure!(!found.is_empty(), "there is no scenario `{wanted}`; there are {}", names.join(", "));
    Ok(found)
}

fn judge(name: &str, outcome: &Outcome) -> Result<()> {
    let Outcome { what, took, bound, notes } = outcome;
    let (took_s, bound_s) = (took.as_secs_f64(), bound.as_secs_f64());
    say(&format!("{name} {what} {took_s:.2} s (bound {bound_s} s); {}", notes.join("; ")));
    ensure!(*took <= bound.mul_f64(SLACK), "{what} took more than {SLACK} times its bound");
    Ok(())
}

fn say(line: &str) {
    // Whoever closed the pipe does not want to know.
    writeln!(io::stdout(), "{line}").ok();
}
