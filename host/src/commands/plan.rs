//! `tholepin plan` and `tholepin calls`: print what a reconcile would do, and what the last ones did.

mod text;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tholepin_admin::AdminClient;
use tholepin_controller::{
    DryRunObjectSource, DryRunReportPart, ObjectArgument, ReconcileReportSelection,
};
use tholepin_core::{ReconcileReport, report};

use super::print;
use super::text_style::TextStyle;
use crate::{
    admin_routes::{CALLS_ROUTE, PLAN_ROUTE},
    cli::{AdminFileArgs, CallsArgs, EngineArgs, KindAndNameArg, PlanArgs},
    engine::{self, EngineOptions},
    exit,
    user_files::admin_file,
};

/// How long the host may take: a plan is a whole reconcile, and may wait for a permit to compute.
const DEADLINE: Duration = Duration::from_secs(100);
/// The largest file that is planned for; objects that Kubernetes can store are smaller.
const FILE_BYTES_MAX: u64 = 3 << 20;

/// Prints the plan. The exit code is 2 if there is something to do.
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
        (Some(object), _) => DryRunObjectSource::Object(argument(object, namespace)),
        (None, Some(file)) => DryRunObjectSource::File { object: read(&file)?, namespace },
        // The command line requires one of the two.
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
                    poll_interval_ms: 1000,
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
        print(&text::plan(&report, TextStyle::of_stdout()))?;
    }
    Ok(code(&report))
}

/// Prints what the last reconciles of an object did.
///
/// # Errors
///
/// Fails if the host does not answer, or has no report of the object.
pub(crate) async fn calls(arguments: CallsArgs) -> Result<u8> {
    let CallsArgs { object, namespace, writes, reconcile, json, admin } = arguments;
    let part = if writes { DryRunReportPart::Writes } else { DryRunReportPart::Calls };
    let selection = ReconcileReportSelection { number: reconcile, part };
    let client = AdminClient::of_file(&admin_file(admin.admin_file)?)?;
    let reports = ask_for_calls(&client, &argument(object, namespace), selection).await?;
    if json {
        let document = json!({"version": report::VERSION, "reconciles": reports});
        print(&format!("{document:#}\n"))?;
    } else {
        print(&format_reports(&reports))?;
    }
    Ok(exit::DONE)
}

/// Returns the reports of the last reconciles of an object from the running host, the oldest first.
///
/// # Errors
///
/// Fails if the host does not answer, or has no report of the object.
pub(super) async fn ask_for_calls(
    host: &AdminClient,
    object: &ObjectArgument,
    selection: ReconcileReportSelection,
) -> Result<Vec<ReconcileReport>> {
    let ObjectArgument { kind, name, namespace } = object;
    let ReconcileReportSelection { number, part } = selection;
    let number = number.map(|number| number.to_string());
    let mut parameters = vec![("kind", kind.as_str()), ("name", name.as_str())];
    parameters.extend(namespace.as_deref().map(|namespace| ("namespace", namespace)));
    parameters.extend(number.as_deref().map(|number| ("reconcile", number)));
    match part {
        DryRunReportPart::Calls => {}
        DryRunReportPart::Writes => parameters.push(("part", "writes")),
    }
    let answer = host.get(CALLS_ROUTE, &parameters, DEADLINE).await?;
    let reports = answer.get("reconciles").cloned().unwrap_or_default();
    serde_json::from_value(reports).context("the host's answer holds no reports; is it older?")
}

/// Formats reports for people on stdout.
pub(super) fn format_reports(reports: &[ReconcileReport]) -> String {
    text::calls(reports, TextStyle::of_stdout())
}

async fn ask_for_plan(
    admin: AdminFileArgs,
    request: &DryRunObjectSource,
) -> Result<ReconcileReport> {
    let client = AdminClient::of_file(&admin_file(admin.admin_file)?)?;
    let answer = client.post(PLAN_ROUTE, &serde_json::to_value(request)?, DEADLINE).await?;
    serde_json::from_value(answer).context("the host's answer is no plan; is it older?")
}

fn argument(object: KindAndNameArg, namespace: Option<String>) -> ObjectArgument {
    let KindAndNameArg { kind, name } = object;
    ObjectArgument { kind, name, namespace }
}

/// Reads the one object of a YAML or JSON file.
fn read(file: &Path) -> Result<Value> {
    let path = file.display();
    let size = std::fs::metadata(file).with_context(|| format!("cannot read `{path}`"))?.len();
    anyhow::ensure!(
        size <= FILE_BYTES_MAX,
        "`{path}` has {size} bytes; an object has at most {FILE_BYTES_MAX}"
    );
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read `{path}`"))?;
    let mut objects: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("`{path}` is no YAML"))?;
    objects.retain(|object| !object.is_null());
    match (objects.pop(), objects.len()) {
        (Some(object), 0) => Ok(object),
        (None, _) => bail!("`{path}` holds no object"),
        (Some(_), more) => bail!("`{path}` holds {} objects; a plan is about one", more + 1),
    }
}

/// Returns 0 if there is nothing to do, 2 if there is, 1 if the plugin failed.
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
        PlanStep, PlanStepEffect, ReconcileHeader, ReconcileKey, ReconcileResult, Recording,
        RevisionDigest, WriteMode,
    };
    use tholepin_schema::{manifest::KindName, reconcile::ReconcileFailure};

    fn report(steps: Vec<PlanStep>, end: ReconcileResult) -> ReconcileReport {
        let header = ReconcileHeader {
            mode: WriteMode::Plan,
            object: ReconcileKey {
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
    fn the_exit_code_is_2_if_there_is_something_to_do() {
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
        let work = || vec![PlanStep::new(PlanStepEffect::Commands { commands: Vec::new() })];
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
                (Err(error), Err(expected)) => {
                    assert!(format!("{error:#}").contains(expected), "{error:#}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
