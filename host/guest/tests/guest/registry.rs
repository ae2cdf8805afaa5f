//! The registry finds, checks, swaps and rejects plugins while others continue to serve.

use std::{fs, os::unix::fs::symlink, sync::Arc, time::Duration};

use serde_json::json;
use tholepin_core::{RevisionDigest, port::GuestRuntime};
use tholepin_guest::{PluginReport, RejectReason, RevisionStage, RollbackError};
use tokio::{sync::broadcast, task::JoinSet, time};

use crate::{
    build,
    perform::{FunctionCalls, GatedCalls},
    setting::{RegistryFixture, plugin, request, settings, summary},
};

const SPEC: fn() -> serde_json::Value = || json!({"text": "world"});

/// Waits for a report that satisfies `fits`.
async fn until(
    reports: &mut broadcast::Receiver<PluginReport>,
    fits: impl Fn(&PluginReport) -> bool,
) -> PluginReport {
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
fn version(report: &PluginReport) -> Option<&str> {
    report.serving.as_ref().map(|serving| serving.version.as_str())
}

/// Returns a registry in which `config-maker` serves and whose watch runs.
async fn running() -> (WatchedRegistry, JoinSet<()>) {
    let mut setting = RegistryFixture::new();
    setting.install("config-maker", &build::config_maker("Hello"), "");
    setting.watch.scan().await;
    let RegistryFixture { home, registry, watch, .. } = setting;
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
        let beside = directory.join(format!(".{file}.new"));
        fs::write(&beside, bytes).unwrap();
        fs::rename(beside, directory.join(file)).unwrap();
    }

    async fn says(&self) -> String {
        let active = self.registry.active(&plugin("config-maker")).unwrap();
        summary(&active, SPEC(), FunctionCalls::friendly()).await
    }
}

#[tokio::test]
async fn a_revision_goes_through_its_stages() {
    let mut setting = RegistryFixture::new();
    let mut reports = setting.registry.subscribe();
    setting.install("config-maker", &build::config_maker("Hello"), "");
    setting.watch.scan().await;
    let mut stages = Vec::new();
    while let Ok(report) = reports.try_recv() {
        assert_eq!(report.reason, None, "{}", report.message);
        stages.extend(report.stage);
    }
    use RevisionStage::{Active, Checked, Compiled, Fetched, Verified};
    assert_eq!(stages, [Fetched, Verified, Compiled, Checked, Active]);
    let report = setting.report("config-maker");
    assert_eq!(version(&report), Some("Hello"));
    assert_eq!(report.active(), report.candidate.as_ref());
    assert_eq!(report.object.unwrap()["spec"]["grants"], "asRequested");
}

#[tokio::test]
async fn a_compilation_is_told_while_it_goes_on_and_not_if_the_cache_has_the_code() {
    let cache = tempfile::tempdir().unwrap();
    let mut setting = RegistryFixture::with(cache.path().join("compiled"), true);
    let component = build::config_maker("Hello");
    setting.install("config-maker", &component, "");
    let mut compilations = setting.registry.compilations();
    setting.watch.scan().await;
    let (begun, ended) = (compilations.try_recv().unwrap(), compilations.try_recv().unwrap());
    assert_eq!((begun.plugin.as_str(), begun.took), ("config-maker", None));
    assert_eq!(begun.bytes as u64, fs::metadata(component).unwrap().len());
    assert!(ended.took.is_some(), "{ended:?}");
    setting.restart();
    let mut compilations = setting.registry.compilations();
    setting.watch.scan().await;
    assert!(compilations.try_recv().is_err(), "it was compiled before");
}

#[tokio::test]
async fn a_renamed_file_is_swapped_in() {
    let (setting, _tasks) = running().await;
    let mut reports = setting.registry.subscribe();
    assert_eq!(setting.says().await, "Hello, world!");
    setting.put("config-maker.wasm", fs::read(build::config_maker("Howdy")).unwrap());
    until(&mut reports, |report| version(report) == Some("Howdy")).await;
    assert_eq!(setting.says().await, "Howdy, world!");
}

#[tokio::test]
async fn a_swapped_link_is_swapped_in() {
    let (setting, _tasks) = running().await;
    let mut reports = setting.registry.subscribe();
    let store = setting.home.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::copy(build::config_maker("Howdy"), store.join("v2.wasm")).unwrap();
    let directory = setting.home.path().join("plugins");
    symlink(store.join("v2.wasm"), directory.join(".link")).unwrap();
    fs::rename(directory.join(".link"), directory.join("config-maker.wasm")).unwrap();
    until(&mut reports, |report| version(report) == Some("Howdy")).await;
    assert_eq!(setting.says().await, "Howdy, world!");
}

#[tokio::test]
async fn a_change_behind_a_link_is_found_without_a_notice() {
    let (setting, _tasks) = running().await;
    let mut reports = setting.registry.subscribe();
    let target = setting.home.path().join("elsewhere.wasm");
    fs::copy(build::config_maker("Howdy"), &target).unwrap();
    let directory = setting.home.path().join("plugins");
    symlink(&target, directory.join(".link")).unwrap();
    fs::rename(directory.join(".link"), directory.join("config-maker.wasm")).unwrap();
    until(&mut reports, |report| version(report) == Some("Howdy")).await;
    fs::copy(build::config_maker("Ahoy"), &target).unwrap();
    until(&mut reports, |report| version(report) == Some("Ahoy")).await;
}

#[tokio::test]
async fn changed_settings_are_a_new_revision() {
    let (setting, _tasks) = running().await;
    let mut reports = setting.registry.subscribe();
    let before = setting.registry.active(&plugin("config-maker")).unwrap();
    let spec = "grants: asRequested\nparameters: {suffix: '?'}";
    setting.put("config-maker.yaml", settings("config-maker", spec));
    until(&mut reports, |report| {
        report.stage == Some(RevisionStage::Active) && report.active() != Some(&before.digest)
    })
    .await;
    let after = setting.registry.active(&plugin("config-maker")).unwrap();
    assert_eq!(*after.parameters, json!({"suffix": "?"}));
    assert_eq!(after.component_digest, before.component_digest);
}

#[tokio::test]
async fn a_call_in_flight_finishes_on_its_revision() {
    let (setting, _tasks) = running().await;
    let mut reports = setting.registry.subscribe();
    let old = setting.registry.active(&plugin("config-maker")).unwrap();
    let world = GatedCalls::at("kubernetes/apply");
    let call = old.reconcile(old.context(None), request(SPEC()), Arc::clone(&world) as _);
    let swap = async {
        let _reached = world.reached.acquire().await.unwrap();
        setting.put("config-maker.wasm", fs::read(build::config_maker("Howdy")).unwrap());
        until(&mut reports, |report| version(report) == Some("Howdy")).await;
        assert_eq!(setting.says().await, "Howdy, world!");
        world.released.add_permits(1);
    };
    let (result, ()) = tokio::join!(call, swap);
    assert_eq!(result.unwrap().unwrap().summary, "Hello, world!");
}

#[tokio::test]
async fn a_removed_file_unloads_the_plugin() {
    let (setting, _tasks) = running().await;
    let mut reports = setting.registry.subscribe();
    fs::remove_file(setting.home.path().join("plugins/config-maker.yaml")).unwrap();
    let report = until(&mut reports, |report| report.stage == Some(RevisionStage::Unloaded)).await;
    assert_eq!(report.serving, None);
    assert!(setting.registry.plugins().is_empty());
}

/// Replaces a file of a good revision, and checks that the new revision is rejected and the old one serves.
async fn refused(
    file: &str,
    bytes: &[u8],
    reason: RejectReason,
    stage: Option<RevisionStage>,
    words: &str,
) {
    let mut setting = RegistryFixture::new();
    setting.install("config-maker", &build::config_maker("Hello"), "");
    setting.watch.scan().await;
    setting.put(file, bytes);
    setting.watch.scan().await;
    let report = setting.report("config-maker");
    assert_eq!((report.reason, report.stage), (Some(reason), stage), "{}", report.message);
    assert!(report.message.contains(words), "{}", report.message);
    let active = setting.active("config-maker").expect("the old revision must still serve");
    assert_eq!(report.active(), Some(&active.digest));
    assert_eq!(summary(&active, SPEC(), FunctionCalls::friendly()).await, "Hello, world!");
    // With the good file restored, the report has no reason.
    setting.install("config-maker", &build::config_maker("Hello"), "");
    setting.watch.scan().await;
    assert_eq!(setting.report("config-maker").reason, None);
}

#[tokio::test]
async fn a_bad_component_leaves_the_old_code_serving() {
    let file = "config-maker.wasm";
    let fetched = Some(RevisionStage::Verified);
    refused(file, b"not wasm", RejectReason::NotAComponent, fetched, "wasm32-wasip2").await;
    refused(file, b"\0asm\x01\0\0\0", RejectReason::NotAComponent, fetched, "core module").await;
    let whole = fs::read(build::config_maker("Hello")).unwrap();
    let half = &whole[..whole.len() / 2];
    refused(file, half, RejectReason::CompileFailed, fetched, "does not compile").await;
}

#[tokio::test]
async fn a_component_that_does_not_fit_the_contract_is_refused() {
    let file = "config-maker.wasm";
    let stage = Some(RevisionStage::Compiled);
    let rows = [
        (
            "acme:secrets/all@1.0.0",
            "steal",
            RejectReason::UnknownImport,
            "does not offer this interface",
        ),
        (
            "tholepin:runtime/clock@0.2.0",
            "now",
            RejectReason::UnknownImport,
            "offers version 0.1.0",
        ),
        ("tholepin:runtime/clock@0.1.9", "later", RejectReason::NotLinkable, "later"),
        ("wasi:cli/environment@0.2.0", "unknown", RejectReason::NotLinkable, "tholepin:plugin"),
    ];
    for (interface, function, reason, words) in rows {
        refused(file, &build::importing(interface, function), reason, stage, words).await;
    }
}

#[tokio::test]
async fn a_component_that_cannot_describe_itself_is_refused() {
    let file = "config-maker.wasm";
    let stage = Some(RevisionStage::Compiled);
    let bytes = |variant| {
        let variables = [("PLUGIN_NAME", "config-maker"), ("PROBE_DESCRIBE", variant)];
        fs::read(build::build("guest-probe", &variables)).unwrap()
    };
    let words = "describe was told to trap";
    refused(file, &bytes("trap"), RejectReason::DescribeFailed, stage, words).await;
    refused(file, &bytes("garbage"), RejectReason::ManifestInvalid, stage, "no kind").await;
    let other = fs::read(build::probe()).unwrap();
    refused(file, &other, RejectReason::ManifestInvalid, stage, "names the plugin `probe`").await;
}

#[tokio::test]
async fn bad_settings_leave_the_old_code_serving() {
    let file = "config-maker.yaml";
    let yaml = |spec: &str| settings("config-maker", spec).into_bytes();
    let invalid = RejectReason::SettingsInvalid;
    refused(file, b"spec: [", invalid, None, "config-maker.yaml").await;
    refused(file, &yaml("grants: all"), invalid, None, "asRequested").await;
    refused(file, &yaml("grants: asRequested\ngrant: {}"), invalid, None, "grant").await;
    refused(file, settings("other", "grants: asRequested").as_bytes(), invalid, None, "`other`")
        .await;
    let limits = "grants: asRequested\nlimits: {memoryMiB: 9999}";
    refused(file, &yaml(limits), invalid, None, "memoryMiB").await;
    let checked = Some(RevisionStage::Compiled);
    refused(
        file,
        &yaml("grants: {}"),
        RejectReason::GrantsMissing,
        checked,
        "`apply` on v1/ConfigMap",
    )
    .await;
    let parameters = "grants: asRequested\nparameters: {sufix: '!'}";
    let words = "`parameters.sufix` is unknown; known: suffix";
    refused(file, &yaml(parameters), RejectReason::ParametersInvalid, checked, words).await;
    let digest = format!("grants: asRequested\ndigest: {}", "0".repeat(64));
    refused(
        file,
        &yaml(&digest),
        RejectReason::DigestMismatch,
        Some(RevisionStage::Fetched),
        "spec.digest",
    )
    .await;
    let missing =
        settings("config-maker", "grants: asRequested").replace("config-maker.wasm", "gone.wasm");
    refused(file, missing.as_bytes(), RejectReason::ComponentMissing, None, "gone.wasm").await;
}

#[tokio::test]
async fn all_that_is_asked_is_granted_only_where_the_host_allows_it() {
    let home = tempfile::tempdir().unwrap();
    let mut setting = RegistryFixture::with(home.path().join("cache"), false);
    setting.install("config-maker", &build::config_maker("Hello"), "");
    setting.watch.scan().await;
    let report = setting.report("config-maker");
    assert_eq!(report.reason, Some(RejectReason::GrantsMissing));
    assert!(
        report.message.contains("tholepin plugin grant config-maker.wasm"),
        "{}",
        report.message
    );
}

#[tokio::test]
async fn a_component_without_settings_is_refused_with_the_command_that_writes_them() {
    let mut setting = RegistryFixture::new();
    setting.put("config-maker.wasm", fs::read(build::config_maker("Hello")).unwrap());
    setting.watch.scan().await;
    let report = setting.report("config-maker");
    assert_eq!(report.reason, Some(RejectReason::SettingsMissing));
    assert!(
        report.message.contains("tholepin plugin grant config-maker.wasm"),
        "{}",
        report.message
    );
    assert!(setting.active("config-maker").is_none());
}

#[tokio::test]
async fn a_kind_has_one_plugin_and_the_second_takes_over_when_the_first_goes() {
    let mut setting = RegistryFixture::new();
    setting.install("config-maker", &build::config_maker("Hello"), "");
    let variables = [("PLUGIN_NAME", "late"), ("GREETING", "Howdy")];
    let second = build::build("guest-config-maker", &variables);
    setting.install("late", &second, "");
    setting.watch.scan().await;
    let report = setting.report("late");
    assert_eq!(report.reason, Some(RejectReason::KindClaimed));
    assert!(
        report.message.contains("`config-maker` already reconciles tests.tholepin.dev/v1/Greeting")
    );
    fs::remove_file(setting.path("config-maker.yaml")).unwrap();
    setting.watch.scan().await;
    assert!(setting.active("late").is_some(), "{:?}", setting.report("late"));
}

/// Returns a fixture in which the greetings were installed one after the other, and their revisions.
async fn after(greetings: &[&str]) -> (RegistryFixture, Vec<RevisionDigest>) {
    let mut setting = RegistryFixture::new();
    let mut revisions = Vec::new();
    for greeting in greetings {
        setting.install("config-maker", &build::config_maker(greeting), "");
        setting.watch.scan().await;
        revisions.push(setting.active("config-maker").unwrap().digest.clone());
    }
    (setting, revisions)
}

async fn says(setting: &RegistryFixture) -> String {
    let active = setting.active("config-maker").unwrap();
    summary(&active, SPEC(), FunctionCalls::friendly()).await
}

#[tokio::test]
async fn a_bad_revision_is_taken_back_until_its_file_changes() {
    let (mut setting, revisions) = after(&["Hello", "Howdy"]).await;
    let name = plugin("config-maker");
    let mut reports = setting.registry.subscribe();
    let back = setting.registry.take_back(&name, &revisions[1], "it trapped").await;
    assert_eq!(back.unwrap(), revisions[0]);
    assert_eq!(says(&setting).await, "Hello, world!");
    let report = reports.recv().await.unwrap();
    assert_eq!(report.reason, Some(RejectReason::TakenBack), "{}", report.message);
    assert!(report.message.contains("it trapped"), "{}", report.message);
    let serving = report.serving.unwrap();
    assert_eq!((&serving.revision, serving.previous.as_ref()), (&revisions[0], revisions.last()));
    assert_eq!(report.candidate.as_ref(), revisions.last());
    // The revision that was rolled back to cannot be rolled back by the host.
    let again = setting.registry.take_back(&name, &revisions[0], "it trapped, too").await;
    assert!(matches!(again, Err(RollbackError::NoneBefore(_))), "{again:?}");

    for _ in 0..2 {
        // Installs the same bytes again, and then restarts the host.
        setting.install("config-maker", &build::config_maker("Howdy"), "");
        setting.watch.scan().await;
        assert_eq!(setting.report("config-maker").reason, Some(RejectReason::TakenBack));
        assert_eq!(says(&setting).await, "Hello, world!");
        setting.restart();
    }

    setting.install("config-maker", &build::config_maker("Ahoy"), "");
    setting.watch.scan().await;
    assert_eq!(setting.report("config-maker").reason, None);
    assert_eq!(says(&setting).await, "Ahoy, world!");
    assert_eq!(setting.registry.history(&name).rollback, None);
}

#[tokio::test]
async fn a_revision_that_a_person_wants_all_the_same_is_kept_and_its_reason_too() {
    let (setting, revisions) = after(&["Hello", "Howdy"]).await;
    let (name, registry) = (plugin("config-maker"), &setting.registry);
    registry.take_back(&name, &revisions[1], "it trapped").await.unwrap();
    registry.roll_back(&name, Some(&revisions[1].0)).await.unwrap();
    assert_eq!(says(&setting).await, "Howdy, world!");
    let again = registry.take_back(&name, &revisions[1], "it trapped again").await;
    assert!(matches!(again, Err(RollbackError::NoneBefore(_))), "{again:?}");
    // A rollback by a person keeps the reason why the file's revision was rolled back before.
    let (setting, revisions) = after(&["One", "Two", "Three"]).await;
    let registry = &setting.registry;
    registry.take_back(&name, &revisions[2], "it trapped").await.unwrap();
    registry.roll_back(&name, Some(&revisions[0].0)).await.unwrap();
    let history = registry.history(&name);
    let bad = history.revisions.iter().find(|it| it.revision == revisions[2]).unwrap();
    assert_eq!(bad.taken_back.as_deref(), Some("it trapped"));
}

#[tokio::test]
async fn a_file_serves_all_the_same_when_what_served_in_its_place_is_gone() {
    let (mut setting, revisions) = after(&["Hello", "Howdy"]).await;
    let name = plugin("config-maker");
    setting.registry.roll_back(&name, None).await.unwrap();
    let base = setting.home.path().join("history");
    let of = fs::read_dir(base).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(of.join("config-maker").join(&revisions[0].0)).unwrap();
    setting.restart();
    setting.watch.scan().await;
    assert_eq!(says(&setting).await, "Howdy, world!");
    assert_eq!(setting.report("config-maker").reason, None);
}

#[tokio::test]
async fn a_person_goes_back_and_forth_between_kept_revisions() {
    let (mut setting, revisions) = after(&["One", "Two", "Three"]).await;
    let name = plugin("config-maker");
    let [one, two, three] = [0, 1, 2].map(|index| revisions[index].0.clone());
    let go = async |setting: &RegistryFixture, wanted: Option<&str>| {
        let gone = setting.registry.roll_back(&name, wanted).await;
        gone.map(|revision| revision.0)
    };
    assert_eq!(go(&setting, Some(&one[..8])).await.unwrap(), one);
    assert_eq!(says(&setting).await, "One, world!");
    let report = setting.report("config-maker");
    assert_eq!(report.reason, Some(RejectReason::RolledBack));
    let way_out = format!("`tholepin plugin rollback config-maker {}`", &three[..12]);
    assert!(report.message.contains(&way_out), "no {way_out} in {}", report.message);
    // After a restart the revision is loaded from disk.
    setting.restart();
    setting.watch.scan().await;
    assert_eq!(says(&setting).await, "One, world!");
    assert_eq!(setting.report("config-maker").reason, Some(RejectReason::RolledBack));
    // It has served since the rollback, not since the restart.
    let last = setting.registry.history(&name).revisions.pop().unwrap();
    let serving = setting.report("config-maker").serving.unwrap();
    assert_eq!((last.revision, last.activated_at_ms), (serving.revision, serving.since_ms));
    assert_eq!(go(&setting, Some(&two)).await.unwrap(), two);
    assert_eq!(says(&setting).await, "Two, world!");
    let refused = go(&setting, Some("nothing")).await.unwrap_err().to_string();
    assert!(refused.contains("begins with `nothing`") && refused.contains("history"), "{refused}");
    assert!(matches!(go(&setting, Some(&two)).await, Err(RollbackError::ServesAlready(_))));
    // Choosing the file's own revision ends the rollback.
    assert_eq!(go(&setting, Some(&three)).await.unwrap(), three);
    assert_eq!(setting.report("config-maker").reason, None);
    let history = setting.registry.history(&name);
    assert_eq!(history.rollback, None);
    let order: Vec<_> = history.revisions.iter().map(|it| it.version.as_str()).collect();
    assert_eq!(order, ["One", "Two", "Three"]);
    fs::remove_dir_all(setting.home.path().join("history")).unwrap();
    setting.restart();
    setting.watch.scan().await;
    let none = go(&setting, None).await;
    assert!(matches!(none, Err(RollbackError::NoneBefore(_))), "{none:?}");
}

#[tokio::test]
async fn a_host_that_starts_with_a_bad_file_goes_on_with_what_served_last() {
    let (mut setting, _) = after(&["Hello"]).await;
    setting.put("config-maker.wasm", b"not wasm");
    setting.restart();
    setting.watch.scan().await;
    assert_eq!(setting.report("config-maker").reason, Some(RejectReason::NotAComponent));
    assert_eq!(says(&setting).await, "Hello, world!");
    // A plugin without settings does not serve again.
    fs::remove_file(setting.path("config-maker.yaml")).unwrap();
    setting.restart();
    setting.watch.scan().await;
    assert!(setting.active("config-maker").is_none());
}
