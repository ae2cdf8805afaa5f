//! A table of faults that once lost data or service, each injected on real processes: the input, the behaviour
//! before the fix, the behaviour now, and the number of keys before and after.
//!
//! ```text
//! cargo test -p tests --test faults -- --all               the whole table, without random faults
//! cargo test -p tests --test faults -- --only 4,7          all cases of these numbers
//! cargo test -p tests --test faults -- --only 4a,5@1x1s    one case; all cases of a number with one shape
//! cargo test -p tests --test faults -- --only random       seeded random faults (SEED=…, MINUTES=…)
//! cargo test -p tests --test faults -- --minute COMMIT     about a minute of cases, chosen by the commit's hash
//! cargo test -p tests --test faults -- --sample COMMIT 3   about three minutes of them
//! cargo test -p tests --test faults -- --list              the names, with the options before it
//! ```
//!
//! The same commit always selects the same cases, and each case that fits into the time is selected by some commits.
//! A case that is expected to take longer is never in a sample of less than three minutes, and so never in `--minute`;
//! in longer samples it is alone. It also runs by its name and with `--all`.
//!
//! A shape is written SHARDSxREPLICAS, followed by `s` if the Pods have volumes. Without an option nothing runs:
//! `make test` runs the scenarios instead. A name without a case is an error, also where cargo passes the filter of
//! another test target to this one.

#[path = "faults/attacked.rs"]
mod attacked;
#[path = "faults/away.rs"]
mod away;
#[path = "faults/corrected_spec.rs"]
mod corrected_spec;
#[path = "faults/credentials.rs"]
mod credentials;
#[path = "faults/damage.rs"]
mod damage;
#[path = "faults/edited.rs"]
mod edited;
#[path = "faults/fixture.rs"]
mod fixture;
#[path = "faults/guard.rs"]
mod guard;
#[path = "faults/hung.rs"]
mod hung;
#[path = "faults/others_go_on.rs"]
mod others_go_on;
#[path = "faults/outdated.rs"]
mod outdated;
#[path = "faults/proof_of_end.rs"]
mod proof_of_end;
#[path = "faults/random.rs"]
mod random;
#[path = "faults/repair.rs"]
mod repair;
#[path = "faults/reports.rs"]
mod reports;
#[path = "faults/rogue.rs"]
mod rogue;
#[path = "faults/settings.rs"]
mod settings;
#[path = "faults/table.rs"]
mod table;

use std::{
    env,
    future::Future,
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
pub(crate) use tests::selection::print_line;
use tests::{
    redis_cluster::RedisCluster,
    selection::{self, Arguments},
};

use table::FaultRows;

/// The least minutes of a sample that may be a single case that takes longer.
const LONG_CASE_MINUTES_MIN: u64 = 3;
/// A case is given up after its expected time multiplied by this factor, but not before this least time.
const GIVE_UP_FACTOR: u32 = 5;
const GIVE_UP_LEAST: Duration = Duration::from_secs(240);

type MeasuredCase<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A case of the table: one or more inputs on a cluster of each of these shapes.
struct FaultCase {
    /// The number of the fault; 17 are the faults found in public bug reports and by attacks.
    number: u8,
    /// The number and a letter.
    name: &'static str,
    shapes: &'static [RedisCluster],
    /// The expected time with one shape, in seconds on an idle machine, without the start of its Pods.
    cost_s: u64,
    measure: for<'a> fn(&'a mut FaultRows, RedisCluster) -> MeasuredCase<'a>,
}

macro_rules! case {
    ($number:literal, $name:literal, $shapes:ident, $cost_s:literal, $measure:path) => {
        FaultCase {
            number: $number,
            name: $name,
            shapes: $shapes,
            cost_s: $cost_s,
            measure: |rows, redis| Box::pin($measure(rows, redis)),
        }
    };
}

const fn shape(shards: usize, replicas: usize, storage: bool) -> RedisCluster {
    RedisCluster { shards, replicas, storage, ..RedisCluster::USUAL }
}

/// With and without volumes, with one, three and five shards.
const EACH: &[RedisCluster] = &[
    shape(1, 1, false),
    shape(3, 1, false),
    shape(5, 2, false),
    shape(1, 1, true),
    shape(3, 1, true),
    shape(5, 2, true),
];
/// A cluster of three shards, with and without volumes.
const USUAL_EACH: &[RedisCluster] = &[shape(3, 1, false), shape(3, 1, true)];
const USUAL: &[RedisCluster] = &[shape(3, 1, false)];
const USUAL_KEPT: &[RedisCluster] = &[shape(3, 1, true)];
/// One shard and three, without volumes.
const MEMORY_EACH: &[RedisCluster] = &[shape(1, 1, false), shape(3, 1, false)];
const PAIR: &[RedisCluster] = &[shape(1, 1, false)];
const TWO_PAIRS: &[RedisCluster] = &[shape(2, 1, false)];
const ALONE: &[RedisCluster] = &[shape(1, 0, false), shape(1, 0, true)];
const ALONE_KEPT: &[RedisCluster] = &[shape(1, 0, true)];

const CASES: &[FaultCase] = &[
    case!(1, "1a", USUAL, 60, rogue::members_are_hidden),
    case!(2, "2a", PAIR, 20, rogue::a_plugin_writes_the_ledger),
    case!(2, "2b", USUAL, 50, rogue::another_host_writes_the_ledger),
    case!(3, "3a", USUAL, 60, rogue::members_are_stopped_by_kubernetes),
    case!(3, "3b", ALONE, 25, rogue::the_last_copy_is_deleted),
    case!(4, "4a", EACH, 30, guard::a_paused_primary_is_killed),
    case!(4, "4b", EACH, 30, guard::a_primary_with_an_invalid_spec_is_killed),
    case!(4, "4c", TWO_PAIRS, 50, guard::two_shards_cannot_vote),
    case!(4, "4d", TWO_PAIRS, 30, guard::a_fresh_process_is_at_a_peer_s_address),
    case!(4, "4e", PAIR, 55, guard::the_only_follower_hangs),
    case!(4, "4f", PAIR, 80, guard::every_copy_has_ended),
    case!(5, "5a", EACH, 60, others_go_on::one_change_cannot_be_applied),
    case!(5, "5b", PAIR, 25, others_go_on::the_plugin_s_files_are_removed),
    case!(5, "5c", USUAL, 25, others_go_on::another_host_finds_the_accepted_spec),
    case!(6, "6a", EACH, 30, away::a_primary_dies_unreported),
    case!(6, "6b", EACH, 20, away::a_primary_s_end_was_reported),
    case!(6, "6c", PAIR, 20, away::a_host_starts_meanwhile),
    case!(7, "7a", USUAL_EACH, 100, proof_of_end::pods_are_deleted_by_force),
    case!(7, "7b", USUAL_EACH, 120, proof_of_end::pods_are_deleted_while_the_host_is_down),
    case!(7, "7c", PAIR, 35, proof_of_end::a_primary_hangs),
    case!(7, "7d", PAIR, 125, proof_of_end::a_primary_is_cut_off),
    case!(8, "8a", USUAL_EACH, 60, credentials::a_password_is_changed),
    case!(8, "8b", USUAL, 25, credentials::a_password_is_added),
    case!(8, "8c", PAIR, 15, credentials::a_password_is_empty),
    case!(8, "8d", MEMORY_EACH, 60, credentials::the_kept_password_is_lost),
    case!(9, "9a", USUAL, 30, corrected_spec::a_spec_is_corrected_at_creation),
    case!(9, "9b", USUAL, 25, corrected_spec::a_spec_is_corrected_on_a_running_cluster),
    case!(10, "10a", PAIR, 50, settings::a_bad_setting_at_creation),
    case!(10, "10b", PAIR, 60, settings::a_bad_setting_and_a_restart),
    case!(10, "10c", PAIR, 15, settings::a_good_setting_survives_a_restart),
    case!(11, "11a", PAIR, 15, edited::a_selector_is_edited_by_hand),
    case!(12, "12a", USUAL_KEPT, 45, damage::a_replica_s_files_are_damaged),
    case!(12, "12b", ALONE_KEPT, 40, damage::the_only_copy_is_damaged),
    case!(13, "13a", USUAL, 20, outdated::a_template_is_changed),
    case!(13, "13b", USUAL, 20, outdated::a_stateful_set_is_orphaned),
    case!(13, "13c", USUAL, 20, outdated::slots_are_uncovered),
    case!(16, "16a", PAIR, 190, repair::the_same_repair_recurs),
    case!(16, "16b", USUAL, 25, repair::two_replicas_return),
    case!(17, "17a", USUAL_KEPT, 60, reports::a_volume_is_lost),
    case!(17, "17b", USUAL_KEPT, 30, reports::identities_are_lost),
    case!(17, "17c", USUAL, 40, reports::new_clients_are_refused),
    case!(17, "17e", USUAL_KEPT, 70, reports::a_replica_is_disconnected),
    case!(17, "17d", PAIR, 15, reports::the_password_has_a_line_break),
    case!(17, "17f", USUAL_EACH, 45, attacked::a_replica_hung),
    case!(17, "17g", USUAL, 40, attacked::killed_at_creation),
    case!(17, "17h", USUAL, 20, attacked::a_slot_is_disowned),
    case!(17, "17i", USUAL_KEPT, 60, attacked::other_shards),
    case!(17, "17j", USUAL, 45, attacked::the_accepted_spec_is_deleted),
    case!(17, "17k", USUAL_EACH, 70, hung::a_primary_hangs_and_continues),
];

/// Runs only by name: it takes as long as `MINUTES` says.
const RANDOM: &[FaultCase] = &[case!(0, "random", USUAL_EACH, 600, random::faults)];

fn main() -> ExitCode {
    selection::exit_code(run())
}

fn run() -> Result<bool> {
    let given: Vec<String> = env::args().skip(1).collect();
    let arguments = Arguments::parse(&given, OPTIONS)?;
    let chosen = chosen(&arguments)?;
    if arguments.is_list {
        chosen.iter().for_each(|chosen_case| print_line(&format!("{}: test", chosen_case.name())));
        return Ok(true);
    }
    if chosen.is_empty() {
        print_line(
            "no fault runs without a selection: --all, --only NAMES, --minute COMMIT or --sample COMMIT MINUTES",
        );
        return Ok(true);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let start = Instant::now();
    let (mut green, mut red) = (0, Vec::new());
    print_line("      case, shape | input | before | now | keys before → after | time");
    for chosen_case in &chosen {
        let mut rows = FaultRows::new(chosen_case.case.number, label(&chosen_case.shape));
        let give_up = chosen_case.give_up();
        let measured = runtime.block_on(async {
            let measure = (chosen_case.case.measure)(&mut rows, chosen_case.shape.clone());
            let measured = tokio::time::timeout(give_up, measure).await;
            measured.unwrap_or_else(|_| bail!("not finished after {give_up:?}"))
        });
        if let Err(error) = measured {
            rows.failed(chosen_case.case.name, &error);
        }
        let (more, others) = rows.into_parts();
        green += more;
        red.extend(others);
    }
    red.iter().for_each(|row| print_line(&format!("red: {row}")));
    print_line(&format!("{green} green, {} red, in {} s", red.len(), start.elapsed().as_secs()));
    Ok(red.is_empty())
}

/// A case with one of its shapes.
#[derive(Clone)]
struct ChosenCase {
    case: &'static FaultCase,
    shape: RedisCluster,
}

impl ChosenCase {
    fn name(&self) -> String {
        format!("{}@{}", self.case.name, short_label(&self.shape))
    }

    /// Returns the time after which the case has failed, whatever it waits for.
    fn give_up(&self) -> Duration {
        if self.case.number == 0 {
            return random::time() + GIVE_UP_LEAST * 2;
        }
        self.cost().saturating_mul(GIVE_UP_FACTOR).max(GIVE_UP_LEAST)
    }

    fn cost(&self) -> Duration {
        // Each Pod adds about a second to start.
        Duration::from_secs(self.case.cost_s + self.shape.pods() as u64)
    }
}

fn all() -> Vec<ChosenCase> {
    with_shapes(CASES)
}

fn with_shapes(cases: &'static [FaultCase]) -> Vec<ChosenCase> {
    let each = |case: &'static FaultCase| {
        case.shapes.iter().map(move |shape| ChosenCase { case, shape: shape.clone() })
    };
    cases.iter().flat_map(each).collect()
}

/// The options that select cases, with their numbers of values.
const OPTIONS: &[(&str, usize)] = &[("--all", 0), ("--minute", 1), ("--sample", 2)];

/// Returns the cases that the arguments select: none by default, all for a list.
fn chosen(arguments: &Arguments) -> Result<Vec<ChosenCase>> {
    let known: Vec<_> = all().iter().map(ChosenCase::name).collect();
    let selected = match &arguments.option {
        Some(("--minute", commit)) => sample(&commit.concat(), 1)?,
        Some(("--sample", values)) => {
            let [commit, minutes] = values.as_slice() else { bail!("--sample COMMIT MINUTES") };
            sample(commit, minutes.parse().context("MINUTES is a whole number")?)?
        }
        None if !arguments.names.is_empty() => arguments.named(named, &known)?,
        None if !arguments.is_list => return Ok(Vec::new()),
        _ => all(),
    };
    arguments.without_skipped(selected, ChosenCase::name, &known)
}

/// Returns the cases of a number (`4`) or a name (`4a`), with `@SHAPE` only those of that shape.
fn named(selector: &str) -> Vec<ChosenCase> {
    let (name, shape) = selector.split_once('@').unwrap_or((selector, ""));
    let matches = |chosen: &ChosenCase| {
        let is_named = chosen.case.name == name || chosen.case.number.to_string() == name;
        is_named && (shape.is_empty() || short_label(&chosen.shape) == shape)
    };
    let every = [all(), with_shapes(RANDOM)].map(Vec::into_iter).into_iter().flatten();
    every.filter(matches).collect()
}

/// Returns the cases for a commit, as many as fit into these minutes. Cases that take longer are left out of a short
/// sample.
///
/// # Errors
///
/// Fails if no case fits.
fn sample(commit: &str, minutes: u64) -> Result<Vec<ChosenCase>> {
    let budget = Duration::from_secs(minutes.saturating_mul(60));
    let mut cases = all();
    cases.retain(|case| LONG_CASE_MINUTES_MIN <= minutes || case.cost() <= budget);
    let sampled = selection::sample(&cases, commit, budget, ChosenCase::cost)?;
    let names: Vec<_> = sampled.iter().map(ChosenCase::name).collect();
    print_line(&format!("{minutes} min of faults for {commit}: {}", names.join(", ")));
    Ok(sampled)
}

fn label(shape: &RedisCluster) -> String {
    let kept = if shape.storage { "storage" } else { "memory" };
    format!("{}x{} {kept}", shape.shards, shape.replicas)
}

fn short_label(shape: &RedisCluster) -> String {
    let RedisCluster { shards, replicas, storage, .. } = shape;
    format!("{shards}x{replicas}{}", if *storage { "s" } else { "" })
}
