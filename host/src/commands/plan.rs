//! `tholepin plan` and `tholepin calls`: what a pass would do, and what the last ones did.

mod text;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tholepin_admin::AdminClient;
use tholepin_core::{ReconcileReport, report};

use super::painter::Painter;
use super::print;
use crate::{
    admin_routes::{CALLS_ROUTE, PLAN_ROUTE},
    cli::{AdminArgs, CallsArgs, EngineArgs, ObjectName, PlanArgs},
    engine::{self, EngineOptions},
    exit,
    planner::{ObjectArgument, PlanRequest, ReportPart, ReportSelection},
    user_files::admin_file,
};

/// How long the host may take: a plan is a whole pass of a plugin, and may wait for its turn.
const DEADLINE: Duration = Duration::from_secs(100);
/// The largest file that is planned for; what Kubernetes stores is smaller.
const FILE_BYTES_MAX: u64 = 3 << 20;

/// Prints the plan; the exit code says whether there is anything to do.
///
/// # Errors
///
/// Fails if there is no plan.
pub(crate) async fn plan(arguments: PlanArgs) -> Result<u8> {
    let PlanArgs {
        object,
        file,
        namespace,
        json,
        admin,
        standalone,
        plugins,
        trust_plugins,
        cluster,
    } = arguments;
    let request = match (object, file) {
        (Some(object), _) => PlanRequest::Object(words(object, namespace)),
        (None, Some(file)) => PlanRequest::File { object: read(&file)?, namespace },
        // The command line asks for one of the two.
        (None, None) => bail!("name an object, or a file with -f"),
    };
    let report = match plugins.filter(|_| standalone) {
        Some(plugins) => {
            let options = EngineOptions {
                kubeconfig: cluster.kubeconfig,
                arguments: EngineArgs {
                    plugins,
                    history: None,
                    concurrency: Some(1),
                    in_flight: 1,
                    look_interval_ms: 1000,
                    resync_seconds: 30,
                },
                keeps_history: false,
                on_compilation: engine::log_compilation,
                trusts_plugins: trust_plugins,
            };
            engine::plan(options, request).await?
        }
        None => ask_for_plan(admin, &request).await?,
    };
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(&text::plan(&report, Painter::of_stdout()))?;
    }
    Ok(code(&report))
}

/// Prints what the last passes for an object did.
///
/// # Errors
///
/// Fails if the host knows nothing of the object.
pub(crate) async fn calls(arguments: CallsArgs) -> Result<u8> {
    let CallsArgs { object, namespace, writes, pass, json, admin } = arguments;
    let wanted =
        ReportSelection { pass, part: if writes { ReportPart::Writes } else { ReportPart::Calls } };
    let client = AdminClient::of_file(&admin_file(admin.admin_file)?)?;
    let passes = ask_for_calls(&client, &words(object, namespace), wanted).await?;
    if json {
        let document = json!({"version": report::VERSION, "passes": passes});
        print(&format!("{document:#}\n"))?;
    } else {
        print(&shown(&passes))?;
    }
    Ok(exit::DONE)
}

/// The last passes for an object, as the running host remembers them, the oldest first.
///
/// # Errors
///
/// Fails if the host cannot be asked, or knows nothing of the object.
pub(super) async fn ask_for_calls(
    host: &AdminClient,
    object: &ObjectArgument,
    wanted: ReportSelection,
) -> Result<Vec<ReconcileReport>> {
    let ObjectArgument { kind, name, namespace } = object;
    let ReportSelection { pass, part } = wanted;
    let number = pass.map(|number| number.to_string());
    let mut parameters = vec![("kind", kind.as_str()), ("name", name.as_str())];
    parameters.extend(namespace.as_deref().map(|namespace| ("namespace", namespace)));
    parameters.extend(number.as_deref().map(|number| ("pass", number)));
    match part {
        ReportPart::Calls => {}
        ReportPart::Writes => parameters.push(("part", "writes")),
    }
    let answer = host.get(CALLS_ROUTE, &parameters, DEADLINE).await?;
    let passes = answer.get("passes").cloned().unwrap_or_default();
    serde_json::from_value(passes).context("the host's answer")
}

/// Passes as people read them on stdout.
pub(super) fn shown(passes: &[ReconcileReport]) -> String {
    text::calls(passes, Painter::of_stdout())
}

async fn ask_for_plan(admin: AdminArgs, request: &PlanRequest) -> Result<ReconcileReport> {
    let client = AdminClient::of_file(&admin_file(admin.admin_file)?)?;
    let answer = client.post(PLAN_ROUTE, &serde_json::to_value(request)?, DEADLINE).await?;
    serde_json::from_value(answer).context("the host's answer is no plan; is it older?")
}

fn words(object: ObjectName, namespace: Option<String>) -> ObjectArgument {
    let ObjectName { kind, name } = object;
    ObjectArgument { kind, name, namespace }
}

/// Reads the one object of a YAML or JSON file.
fn read(file: &Path) -> Result<Value> {
    let shown = file.display();
    let size = std::fs::metadata(file).with_context(|| format!("cannot read `{shown}`"))?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "`{shown}` has {size} bytes, which is no object");
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read `{shown}`"))?;
    let mut objects: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("`{shown}` is no YAML"))?;
    objects.retain(|object| !object.is_null());
    match (objects.pop(), objects.len()) {
        (Some(object), 0) => Ok(object),
        (None, _) => bail!("`{shown}` holds no object"),
        (Some(_), more) => bail!("`{shown}` holds {} objects; a plan is about one", more + 1),
    }
}

/// 0 nothing to do, 2 something, 1 no answer of the plugin.
fn code(report: &ReconcileReport) -> u8 {
    if report.stops.is_some() {
        exit::CHANGES
    } else if !report.is_answered() {
        exit::FAILED
    } else if report.has_work() {
        exit::CHANGES
    } else {
        exit::DONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tholepin_core::{
        ObjectKey, PlanStep, ReconcileHeader, ReconcileResult, Recording, RevisionDigest,
        StepEffect, WriteMode,
    };
    use tholepin_schema::{manifest::KindName, reconcile::ReconcileFailure};

    fn report(steps: Vec<PlanStep>, end: ReconcileResult) -> ReconcileReport {
        let header = ReconcileHeader {
            mode: WriteMode::Plan,
            object: ObjectKey {
                plugin: "p".parse().unwrap(),
                kind: KindName { api_version: "a/v1".into(), kind: "K".into() },
                namespace: "n".into(),
                name: "x".into(),
            },
            revision: RevisionDigest("r".into()),
            started_at_ms: 1,
            causes: vec!["plan".into()],
            remarks: Vec::new(),
        };
        ReconcileReport { steps, ..ReconcileReport::new(header, &Recording::default(), end, 3) }
    }

    #[test]
    fn the_exit_code_tells_what_there_is_to_do() {
        let answered = || ReconcileResult::Answered {
            summary: String::new(),
            requeue_ms: None,
            finished: false,
        };
        let failed = ReconcileResult::Failed(ReconcileFailure {
            reason: "R".into(),
            message: "m".into(),
            retry: false,
        });
        let work = || vec![PlanStep::new(StepEffect::Commands { commands: Vec::new() })];
        assert_eq!(code(&report(Vec::new(), answered())), exit::DONE);
        assert_eq!(code(&report(work(), answered())), exit::CHANGES);
        assert_eq!(code(&report(work(), failed.clone())), exit::FAILED);
        let mut stopped = report(work(), failed);
        stopped.stops = Some("the reply to `INCR a` on `p-0`".into());
        assert_eq!(code(&stopped), exit::CHANGES);
    }

    #[test]
    fn a_file_holds_one_object() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        for (text, expected) in [
            ("kind: A\n", Ok(())),
            ("---\nkind: A\n---\n", Ok(())),
            ("{\"kind\": \"A\"}", Ok(())),
            ("kind: A\n---\nkind: B\n", Err("2 objects")),
            ("", Err("no object")),
            ("a: [", Err("no YAML")),
        ] {
            std::fs::write(&path, text).unwrap();
            match (read(&path), expected) {
                (Ok(object), Ok(())) => assert_eq!(object["kind"], "A"),
                (Err(error), Err(words)) => {
                    assert!(format!("{error:#}").contains(words), "{error:#}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
