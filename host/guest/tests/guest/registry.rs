//! The registry finds, checks, swaps and rejects plugins while others continue to serve.

use std::{fs, os::unix::fs::symlink, sync::Arc, time::Duration};

use serde_json::json;
use tholepin_core::{RevisionDigest, port::PluginExports};
use tholepin_guest::{PluginRejectReason, PluginStageReport, RevisionLoadStage, RollbackError};
use tokio::{sync::broadcast, task::JoinSet, time};

use crate::{
    build,
    fixture::{RegistryFixture, plugin, request, settings, summary},
    host_calls::{FunctionCalls, GatedCalls},
};

const SPEC: fn() -> serde_json::Value = || json!({"text": "world"});

/// Waits for a report that satisfies `fits`.
async fn until(
    reports: &mut broadcast::Receiver<PluginStageReport>,
    fits: impl Fn(&PluginStageReport) -> bool,
) -> PluginStageReport {
    let wait = async {
        loop {
            let report = reports.recv().await.unwrap();
            if fits(&report) {
                return report;
            }
        }
    };
    time::timeout(Duration::from_secs(30), wait).await.expect("the report must come")
}

/// Returns the version of the serving revision.
fn version(report: &PluginStageReport) -> Option<&str> {
    report.serving.as_ref().map(|serving| serving.version.as_str())
}

/// Returns a registry in which `config-maker` serves and whose watch runs.
async fn running() -> (WatchedRegistry, JoinSet<()>) {
    let mut fixture = RegistryFixture::new();
    fixture.install("config-maker", &build::config_maker("Hello"), "");
    fixture.watch.scan().await;
    let RegistryFixture { home, registry, watch, .. } = fixture;
    let mut tasks = JoinSet::new();
    tasks.spawn(watch.run());
    (WatchedRegistry { home, registry }, tasks)
}

/// A registry whose watch runs in a task.
struct WatchedRegistry {
    home: tempfile::TempDir,
    registry: Arc<tholepin_guest::PluginRegistry>,
}

impl WatchedRegistry {
    fn put(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let directory = self.home.path().join("plugins");
        let temporary = directory.join(format!(".{file}.new"));
        fs::write(&temporary, bytes).unwrap();
        fs::rename(temporary, directory.join(file)).unwrap();
    }

    async fn greeting(&self) -> String {
        let active = self.registry.active(&plugin("config-maker")).unwrap();
        summary(&active, SPEC(), FunctionCalls::friendly()).await
    }
}

#[tokio::test]
async fn a_revision_goes_through_its_stages() {
    let mut fixture = RegistryFixture::new();
    let mut reports = fixture.registry.subscribe();
    fixture.install("config-maker", &build::config_maker("Hello"), "");
    fixture.watch.scan().await;
    let mut stages = Vec::new();
    while let Ok(report) = reports.try_recv() {
        assert_eq!(report.reason, None, "{}", report.message);
        stages.extend(report.stage);
    }
    use RevisionLoadStage::{Active, Checked, Compiled, Fetched, Verified};
    assert_eq!(stages, [Fetched, Verified, Compiled, Checked, Active]);
    let report = fixture.report("config-maker");
    assert_eq!(version(&report), Some("Hello"));
    assert_eq!(report.active(), report.candidate.as_ref());
    assert_eq!(report.object.unwrap()["spec"]["grants"], "asRequested");
}

#[tokio::test]
async fn a_compilation_is_announced_unless_the_cache_has_the_code() {
    let cache = tempfile::tempdir().unwrap();
    let mut fixture = RegistryFixture::with(cache.path().join("compiled"), true);
    let component = build::config_maker("Hello");
    fixture.install("config-maker", &component, "");
    let mut compilations = fixture.registry.compilations();
    fixture.watch.scan().await;
    let (begun, ended) = (compilations.try_recv().unwrap(), compilations.try_recv().unwrap());
    assert_eq!((begun.plugin.as_str(), begun.took), ("config-maker", None));
    assert_eq!(begun.bytes as u64, fs::metadata(component).unwrap().len());
    assert!(ended.took.is_some(), "{ended:?}");
    fixture.restart();
    let mut compilations = fixture.registry.compilations();
    fixture.watch.scan().await;
    assert!(compilations.try_recv().is_err(), "it was compiled before");
}

#[tokio::test]
async fn a_renamed_file_is_swapped_in() {
    let (fixture, _tasks) = running().await;
    let mut reports = fixture.registry.subscribe();
    assert_eq!(fixture.greeting().await, "Hello, world!");
    fixture.put("config-maker.wasm", fs::read(build::config_maker("Howdy")).unwrap());
    until(&mut reports, |report| version(report) == Some("Howdy")).await;
    assert_eq!(fixture.greeting().await, "Howdy, world!");
}

#[tokio::test]
async fn a_swapped_link_is_swapped_in() {
    let (fixture, _tasks) = running().await;
    let mut reports = fixture.registry.subscribe();
    let store = fixture.home.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::copy(build::config_maker("Howdy"), store.join("v2.wasm")).unwrap();
    let directory = fixture.home.path().join("plugins");
    symlink(store.join("v2.wasm"), directory.join(".link")).unwrap();
    fs::rename(directory.join(".link"), directory.join("config-maker.wasm")).unwrap();
    until(&mut reports, |report| version(report) == Some("Howdy")).await;
    assert_eq!(fixture.greeting().await, "Howdy, world!");
}

#[tokio::test]
async fn a_change_behind_a_link_is_found_without_a_notice() {
    let (fixture, _tasks) = running().await;
    let mut reports = fixture.registry.subscribe();
    let target = fixture.home.path().join("elsewhere.wasm");
    fs::copy(build::config_maker("Howdy"), &target).unwrap();
    let directory = fixture.home.path().join("plugins");
    symlink(&target, directory.join(".link")).unwrap();
    fs::rename(directory.join(".link"), directory.join("config-maker.wasm")).unwrap();
    until(&mut reports, |report| version(report) == Some("Howdy")).await;
    fs::copy(build::config_maker("Ahoy"), &target).unwrap();
    until(&mut reports, |report| version(report) == Some("Ahoy")).await;
}

#[tokio::test]
async fn changed_settings_are_a_new_revision() {
    let (fixture, _tasks) = running().await;
    let mut reports = fixture.registry.subscribe();
    let before = fixture.registry.active(&plugin("config-maker")).unwrap();
    let spec = "grants: asRequested\nparameters: {suffix: '?'}";
    fixture.put("config-maker.yaml", settings("config-maker", spec));
    until(&mut reports, |report| {
        report.stage == Some(RevisionLoadStage::Active) && report.active() != Some(&before.digest)
    })
    .await;
    let after = fixture.registry.active(&plugin("config-maker")).unwrap();
    assert_eq!(*after.parameters, json!({"suffix": "?"}));
    assert_eq!(after.component_digest, before.component_digest);
}

#[tokio::test]
async fn a_call_in_flight_finishes_on_its_revision() {
    let (fixture, _tasks) = running().await;
    let mut reports = fixture.registry.subscribe();
    let old = fixture.registry.active(&plugin("config-maker")).unwrap();
    let calls = GatedCalls::at("kubernetes/apply");
    let call = old.reconcile(old.context(None), request(SPEC()), Arc::clone(&calls) as _);
    let swap = async {
        let _reached = calls.reached.acquire().await.unwrap();
        fixture.put("config-maker.wasm", fs::read(build::config_maker("Howdy")).unwrap());
        until(&mut reports, |report| version(report) == Some("Howdy")).await;
        assert_eq!(fixture.greeting().await, "Howdy, world!");
        calls.released.add_permits(1);
    };
    let (result, ()) = tokio::join!(call, swap);
    assert_eq!(result.unwrap().unwrap().summary, "Hello, world!");
}

#[tokio::test]
async fn a_removed_file_unloads_the_plugin() {
    let (fixture, _tasks) = running().await;
    let mut reports = fixture.registry.subscribe();
    fs::remove_file(fixture.home.path().join("plugins/config-maker.yaml")).unwrap();
    let report =
        until(&mut reports, |report| report.stage == Some(RevisionLoadStage::Unloaded)).await;
    assert_eq!(report.serving, None);
    assert!(fixture.registry.plugins().is_empty());
}

/// Replaces a file of a good revision, and checks that the new revision is rejected and the old one serves.
async fn check_rejected(
    file: &str,
    bytes: &[u8],
    reason: PluginRejectReason,
    stage: Option<RevisionLoadStage>,
    expected: &str,
) {
    let mut fixture = RegistryFixture::new();
    fixture.install("config-maker", &build::config_maker("Hello"), "");
    fixture.watch.scan().await;
    fixture.put(file, bytes);
    fixture.watch.scan().await;
    let report = fixture.report("config-maker");
    assert_eq!((report.reason, report.stage), (Some(reason), stage), "{}", report.message);
    assert!(report.message.contains(expected), "{}", report.message);
    let active = fixture.active("config-maker").expect("the old revision must still serve");
    assert_eq!(report.active(), Some(&active.digest));
    assert_eq!(summary(&active, SPEC(), FunctionCalls::friendly()).await, "Hello, world!");
    // With the good file restored, the report has no reason.
    fixture.install("config-maker", &build::config_maker("Hello"), "");
    fixture.watch.scan().await;
    assert_eq!(fixture.report("config-maker").reason, None);
}

#[tokio::test]
async fn a_bad_component_leaves_the_old_code_serving() {
    let file = "config-maker.wasm";
    let fetched = Some(RevisionLoadStage::Verified);
    check_rejected(file, b"not wasm", PluginRejectReason::NotAComponent, fetched, "wasm32-wasip2")
        .await;
    check_rejected(
        file,
        b"\0asm\x01\0\0\0",
        PluginRejectReason::NotAComponent,
        fetched,
        "core module",
    )
    .await;
    let whole = fs::read(build::config_maker("Hello")).unwrap();
    let half = &whole[..whole.len() / 2];
    check_rejected(file, half, PluginRejectReason::CompileFailed, fetched, "does not compile")
        .await;
}

#[tokio::test]
async fn a_component_that_does_not_fit_the_contract_is_refused() {
    let file = "config-maker.wasm";
    let stage = Some(RevisionLoadStage::Compiled);
    let rows = [
        (
            "acme:secrets/all@1.0.0",
            "steal",
            PluginRejectReason::UnknownImport,
            "does not offer this interface",
        ),
        (
            "tholepin:runtime/clock@0.2.0",
            "now",
            PluginRejectReason::UnknownImport,
            "offers version 0.1.0",
        ),
        ("tholepin:runtime/clock@0.1.9", "later", PluginRejectReason::NotLinkable, "later"),
        (
            "wasi:cli/environment@0.2.0",
            "unknown",
            PluginRejectReason::NotLinkable,
            "tholepin:plugin",
        ),
    ];
    for (interface, function, reason, expected) in rows {
        check_rejected(file, &build::importing(interface, function), reason, stage, expected).await;
    }
}

#[tokio::test]
async fn a_component_that_cannot_describe_itself_is_refused() {
    let file = "config-maker.wasm";
    let stage = Some(RevisionLoadStage::Compiled);
    let bytes = |variant| {
        let variables = [("PLUGIN_NAME", "config-maker"), ("PROBE_DESCRIBE", variant)];
        fs::read(build::build("guest-probe", &variables)).unwrap()
    };
    let expected = "describe was told to trap";
    check_rejected(file, &bytes("trap"), PluginRejectReason::DescribeFailed, stage, expected).await;
    check_rejected(file, &bytes("garbage"), PluginRejectReason::ManifestInvalid, stage, "no kind")
        .await;
    let other = fs::read(build::probe()).unwrap();
    check_rejected(
        file,
        &other,
        PluginRejectReason::ManifestInvalid,
        stage,
        "names the plugin `probe`",
    )
    .await;
}

#[tokio::test]
async fn bad_settings_leave_the_old_code_serving() {
    let file = "config-maker.yaml";
    let yaml = |spec: &str| settings("config-maker", spec).into_bytes();
    let invalid = PluginRejectReason::SettingsInvalid;
    check_rejected(file, b"spec: [", invalid, None, "config-maker.yaml").await;
    check_rejected(file, &yaml("grants: all"), invalid, None, "asRequested").await;
    check_rejected(file, &yaml("grants: asRequested\ngrant: {}"), invalid, None, "grant").await;
    check_rejected(
        file,
        settings("other", "grants: asRequested").as_bytes(),
        invalid,
        None,
        "`other`",
    )
    .await;
    let limits = "grants: asRequested\nlimits: {memoryMiB: 9999}";
    check_rejected(file, &yaml(limits), invalid, None, "memoryMiB").await;
    let checked = Some(RevisionLoadStage::Compiled);
    check_rejected(
        file,
        &yaml("grants: {}"),
        PluginRejectReason::GrantsMissing,
        checked,
        "`apply` on v1/ConfigMap",
    )
    .await;
    let parameters = "grants: asRequested\nparameters: {sufix: '!'}";
    let expected = "`parameters.sufix` is unknown; known: suffix";
    check_rejected(
        file,
        &yaml(parameters),
        PluginRejectReason::ParametersInvalid,
        checked,
        expected,
    )
    .await;
    let digest = format!("grants: asRequested\ndigest: {}", "0".repeat(64));
    check_rejected(
        file,
        &yaml(&digest),
        PluginRejectReason::DigestMismatch,
        Some(RevisionLoadStage::Fetched),
        "spec.digest",
    )
    .await;
    let missing =
        settings("config-maker", "grants: asRequested").replace("config-maker.wasm", "gone.wasm");
    check_rejected(
        file,
        missing.as_bytes(),
        PluginRejectReason::ComponentMissing,
        None,
        "gone.wasm",
    )
    .await;
}

#[tokio::test]
async fn as_requested_grants_are_accepted_only_where_the_host_allows_it() {
    let home = tempfile::tempdir().unwrap();
    let mut fixture = RegistryFixture::with(home.path().join("cache"), false);
    fixture.install("config-maker", &build::config_maker("Hello"), "");
    fixture.watch.scan().await;
    let report = fixture.report("config-maker");
    assert_eq!(report.reason, Some(PluginRejectReason::GrantsMissing));
    assert!(
        report.message.contains("tholepin plugin grant config-maker.wasm"),
        "{}",
        report.message
    );
}

#[tokio::test]
async fn a_component_without_settings_is_refused_with_the_command_that_writes_them() {
    let mut fixture = RegistryFixture::new();
    fixture.put("config-maker.wasm", fs::read(build::config_maker("Hello")).unwrap());
    fixture.watch.scan().await;
    let report = fixture.report("config-maker");
    assert_eq!(report.reason, Some(PluginRejectReason::SettingsMissing));
    assert!(
        report.message.contains("tholepin plugin grant config-maker.wasm"),
        "{}",
        report.message
    );
    assert!(fixture.active("config-maker").is_none());
}

#[tokio::test]
async fn a_kind_has_one_plugin_and_the_second_takes_over_when_the_first_goes() {
    let mut fixture = RegistryFixture::new();
    fixture.install("config-maker", &build::config_maker("Hello"), "");
    let variables = [("PLUGIN_NAME", "late"), ("GREETING", "Howdy")];
    let second = build::build("guest-config-maker", &variables);
    fixture.install("late", &second, "");
    fixture.watch.scan().await;
    let report = fixture.report("late");
    assert_eq!(report.reason, Some(PluginRejectReason::KindClaimed));
    assert!(
        report.message.contains("`config-maker` already reconciles tests.tholepin.dev/v1/Greeting")
    );
    fs::remove_file(fixture.path("config-maker.yaml")).unwrap();
    fixture.watch.scan().await;
    assert!(fixture.active("late").is_some(), "{:?}", fixture.report("late"));
}

/// Returns a fixture in which the greetings were installed one after the other, and their revisions.
async fn with_revisions(greetings: &[&str]) -> (RegistryFixture, Vec<RevisionDigest>) {
    let mut fixture = RegistryFixture::new();
    let mut revisions = Vec::new();
    for greeting in greetings {
        fixture.install("config-maker", &build::config_maker(greeting), "");
        fixture.watch.scan().await;
        revisions.push(fixture.active("config-maker").unwrap().digest.clone());
    }
    (fixture, revisions)
}

async fn greeting(fixture: &RegistryFixture) -> String {
    let active = fixture.active("config-maker").unwrap();
    summary(&active, SPEC(), FunctionCalls::friendly()).await
}

#[tokio::test]
async fn a_bad_revision_is_rolled_back_until_its_file_changes() {
    let (mut fixture, revisions) = with_revisions(&["Hello", "Howdy"]).await;
    let name = plugin("config-maker");
    let mut reports = fixture.registry.subscribe();
    let back = fixture.registry.roll_back_failing(&name, &revisions[1], "it trapped").await;
    assert_eq!(back.unwrap(), revisions[0]);
    assert_eq!(greeting(&fixture).await, "Hello, world!");
    let report = reports.recv().await.unwrap();
    assert_eq!(report.reason, Some(PluginRejectReason::TakenBack), "{}", report.message);
    assert!(report.message.contains("it trapped"), "{}", report.message);
    let serving = report.serving.unwrap();
    assert_eq!((&serving.revision, serving.previous.as_ref()), (&revisions[0], revisions.last()));
    assert_eq!(report.candidate.as_ref(), revisions.last());
    // The revision that was rolled back to cannot be rolled back by the host.
    let again = fixture.registry.roll_back_failing(&name, &revisions[0], "it trapped, too").await;
    assert!(matches!(again, Err(RollbackError::NoneBefore(_))), "{again:?}");

    for _ in 0..2 {
        // Installs the same bytes again, and then restarts the host.
        fixture.install("config-maker", &build::config_maker("Howdy"), "");
        fixture.watch.scan().await;
        assert_eq!(fixture.report("config-maker").reason, Some(PluginRejectReason::TakenBack));
        assert_eq!(greeting(&fixture).await, "Hello, world!");
        fixture.restart();
    }

    fixture.install("config-maker", &build::config_maker("Ahoy"), "");
    fixture.watch.scan().await;
    assert_eq!(fixture.report("config-maker").reason, None);
    assert_eq!(greeting(&fixture).await, "Ahoy, world!");
    assert_eq!(fixture.registry.history(&name).rollback, None);
}

#[tokio::test]
async fn a_revision_chosen_after_its_rollback_stays_and_keeps_its_reason() {
    let (fixture, revisions) = with_revisions(&["Hello", "Howdy"]).await;
    let (name, registry) = (plugin("config-maker"), &fixture.registry);
    registry.roll_back_failing(&name, &revisions[1], "it trapped").await.unwrap();
    registry.roll_back(&name, Some(&revisions[1].0)).await.unwrap();
    assert_eq!(greeting(&fixture).await, "Howdy, world!");
    let again = registry.roll_back_failing(&name, &revisions[1], "it trapped again").await;
    assert!(matches!(again, Err(RollbackError::NoneBefore(_))), "{again:?}");
    // A rollback by a person keeps the reason why the file's revision was rolled back before.
    let (fixture, revisions) = with_revisions(&["One", "Two", "Three"]).await;
    let registry = &fixture.registry;
    registry.roll_back_failing(&name, &revisions[2], "it trapped").await.unwrap();
    registry.roll_back(&name, Some(&revisions[0].0)).await.unwrap();
    let history = registry.history(&name);
    let bad = history.revisions.iter().find(|it| it.revision == revisions[2]).unwrap();
    assert_eq!(bad.rolled_back.as_deref(), Some("it trapped"));
}

#[tokio::test]
async fn the_files_revision_serves_if_that_of_the_rollback_is_lost() {
    let (mut fixture, revisions) = with_revisions(&["Hello", "Howdy"]).await;
    let name = plugin("config-maker");
    fixture.registry.roll_back(&name, None).await.unwrap();
    let base = fixture.home.path().join("history");
    let of = fs::read_dir(base).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(of.join("config-maker").join(&revisions[0].0)).unwrap();
    fixture.restart();
    fixture.watch.scan().await;
    assert_eq!(greeting(&fixture).await, "Howdy, world!");
    assert_eq!(fixture.report("config-maker").reason, None);
}

#[tokio::test]
async fn a_person_rolls_back_and_forth_between_kept_revisions() {
    let (mut fixture, revisions) = with_revisions(&["One", "Two", "Three"]).await;
    let name = plugin("config-maker");
    let [one, two, three] = [0, 1, 2].map(|index| revisions[index].0.clone());
    let go = async |fixture: &RegistryFixture, prefix: Option<&str>| {
        let result = fixture.registry.roll_back(&name, prefix).await;
        result.map(|revision| revision.0)
    };
    assert_eq!(go(&fixture, Some(&one[..8])).await.unwrap(), one);
    assert_eq!(greeting(&fixture).await, "One, world!");
    let report = fixture.report("config-maker");
    assert_eq!(report.reason, Some(PluginRejectReason::RolledBack));
    let command = format!("`tholepin plugin rollback config-maker {}`", &three[..12]);
    assert!(report.message.contains(&command), "no {command} in {}", report.message);
    // After a restart the revision is loaded from disk.
    fixture.restart();
    fixture.watch.scan().await;
    assert_eq!(greeting(&fixture).await, "One, world!");
    assert_eq!(fixture.report("config-maker").reason, Some(PluginRejectReason::RolledBack));
    // It has served since the rollback, not since the restart.
    let last = fixture.registry.history(&name).revisions.pop().unwrap();
    let serving = fixture.report("config-maker").serving.unwrap();
    assert_eq!((last.revision, last.activated_at_ms), (serving.revision, serving.since_ms));
    assert_eq!(go(&fixture, Some(&two)).await.unwrap(), two);
    assert_eq!(greeting(&fixture).await, "Two, world!");
    let refused = go(&fixture, Some("nothing")).await.unwrap_err().to_string();
    assert!(refused.contains("begins with `nothing`") && refused.contains("history"), "{refused}");
    assert!(matches!(go(&fixture, Some(&two)).await, Err(RollbackError::ServesAlready(_))));
    // Choosing the file's own revision ends the rollback.
    assert_eq!(go(&fixture, Some(&three)).await.unwrap(), three);
    assert_eq!(fixture.report("config-maker").reason, None);
    let history = fixture.registry.history(&name);
    assert_eq!(history.rollback, None);
    let order: Vec<_> = history.revisions.iter().map(|it| it.version.as_str()).collect();
    assert_eq!(order, ["One", "Two", "Three"]);
    fs::remove_dir_all(fixture.home.path().join("history")).unwrap();
    fixture.restart();
    fixture.watch.scan().await;
    let none = go(&fixture, None).await;
    assert!(matches!(none, Err(RollbackError::NoneBefore(_))), "{none:?}");
}

#[tokio::test]
async fn a_host_that_starts_with_a_bad_file_serves_the_last_revision() {
    let (mut fixture, _) = with_revisions(&["Hello"]).await;
    fixture.put("config-maker.wasm", b"not wasm");
    fixture.restart();
    fixture.watch.scan().await;
    assert_eq!(fixture.report("config-maker").reason, Some(PluginRejectReason::NotAComponent));
    assert_eq!(greeting(&fixture).await, "Hello, world!");
    // A plugin without settings does not serve again.
    fs::remove_file(fixture.path("config-maker.yaml")).unwrap();
    fixture.restart();
    fixture.watch.scan().await;
    assert!(fixture.active("config-maker").is_none());
}
