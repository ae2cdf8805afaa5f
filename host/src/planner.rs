//! Answers what a pass would do and what the last ones did: from words of the command line to the
//! controller's reports.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tholepin_controller::{Controller, PlanError};
use tholepin_core::{
    CallError, ObjectMeta, ObjectRef, PlanStep, ReconcileReport, StepEffect,
    port::{ApplyRequest, Kubernetes},
    step::{self, ChangeScope, ObjectChange},
};
use tholepin_kube::KubernetesApi;
use tholepin_schema::manifest::KindName;

/// The namespace of an object that names none.
pub(crate) const NAMESPACE: &str = "default";
/// As whom a file is applied for trial: what `kubectl apply --server-side` is called.
const FILE_MANAGER: &str = "kubectl";

/// An object as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectArgument {
    /// A kind, plural or short name.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// Its namespace; the usual one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
}

/// What a plan is about.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum PlanRequest {
    /// An object as it is.
    Object(ObjectArgument),
    /// An object as a file has it.
    File {
        /// The file's content.
        object: Value,
        /// The namespace, if the file names none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
}

/// Which passes are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportSelection {
    /// This one only.
    pub(crate) pass: Option<u64>,
    /// What, of each.
    pub(crate) part: ReportPart,
}

/// Which part of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReportPart {
    /// All its calls.
    #[default]
    Calls,
    /// What it wrote; passes that wrote nothing are left out.
    Writes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlannerError {
    /// No kind has this name.
    #[error(
        "no active plugin reconciles a kind `{word}`; reconciled are: {known}; `tholepin plugin list` \
         shows the plugins"
    )]
    NoKind {
        /// What was asked for.
        word: String,
        /// The kinds that there are.
        known: String,
    },
    /// The host has no report of it.
    #[error("{0}")]
    NoPass(String),
    /// The file holds no object.
    #[error("the file holds no object that can be applied: {0}")]
    File(String),
    /// The controller has no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The API server refuses, or does not answer.
    #[error("the API server: {0}")]
    Kubernetes(#[from] CallError),
}

/// What answers.
pub(crate) struct Planner {
    pub(crate) controller: Arc<Controller>,
    pub(crate) kubernetes: Arc<KubernetesApi>,
}

impl Planner {
    /// Plans one pass.
    ///
    /// # Errors
    ///
    /// Fails if nobody reconciles the kind, the object does not exist, or the API server refuses it.
    pub(crate) async fn plan(&self, request: PlanRequest) -> Result<ReconcileReport, PlannerError> {
        match request {
            PlanRequest::Object(words) => {
                let object = self.object(&words).await?;
                Ok(self.controller.plan(&object, None).await?)
            }
            PlanRequest::File { object, namespace } => self.plan_file(object, namespace).await,
        }
    }

    /// What the last passes for an object did, the oldest first.
    ///
    /// # Errors
    ///
    /// Fails if nobody reconciles the kind, or nothing is known of the object or of the pass.
    pub(crate) async fn calls(
        &self,
        words: &ObjectArgument,
        wanted: ReportSelection,
    ) -> Result<Vec<ReconcileReport>, PlannerError> {
        let object = self.object(words).await?;
        let known = self.controller.calls(&object);
        if known.is_empty() {
            let view = self.kubernetes.view();
            let why = match view.meta(&object) {
                Some(_) => "was not reconciled since this host started",
                None => "does not exist",
            };
            return Err(PlannerError::NoPass(format!("{object} {why}")));
        }
        let is_wanted = |report: &&Arc<ReconcileReport>| match wanted.pass {
            Some(number) => report.number == number,
            None => wanted.part == ReportPart::Calls || !report.steps.is_empty(),
        };
        let found: Vec<_> = known.iter().filter(is_wanted).map(|it| part(it, wanted)).collect();
        if let (Some(number), true) = (wanted.pass, found.is_empty()) {
            let numbers: Vec<_> = known.iter().map(|report| report.number.to_string()).collect();
            let text =
                format!("pass {number} of {object} is not kept; kept are {}", numbers.join(", "));
            return Err(PlannerError::NoPass(text));
        }
        Ok(found)
    }

    /// The kind that a request is about.
    ///
    /// # Errors
    ///
    /// Fails if nobody reconciles it.
    pub(crate) async fn kind(&self, request: &PlanRequest) -> Result<KindName, PlannerError> {
        match request {
            PlanRequest::Object(words) => Ok(self.object(words).await?.kind),
            PlanRequest::File { object, namespace: _ } => kind_of(object),
        }
    }

    /// The object that words name.
    ///
    /// # Errors
    ///
    /// Fails if nobody reconciles such a kind.
    pub(crate) async fn object(&self, words: &ObjectArgument) -> Result<ObjectRef, PlannerError> {
        let ObjectArgument { kind, name, namespace } = words;
        // Those of a plugin that is not loaded any more are asked about as well.
        let mut kinds = self.controller.kinds();
        kinds.extend(self.controller.followed().into_iter().map(|(_, kind)| kind));
        let found = self.kubernetes.find_kind(kind, &kinds).await?;
        let found = found.ok_or_else(|| PlannerError::NoKind {
            word: kind.clone(),
            known: self.controller.known_kinds(),
        })?;
        let namespace = if found.is_namespaced {
            namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned())
        } else {
            String::new()
        };
        Ok(ObjectRef { kind: found.kind, namespace, name: name.clone() })
    }

    /// The file's object goes through the API server's dry run, so that defaults and validation are
    /// seen; the plugin is asked about the result.
    async fn plan_file(
        &self,
        mut object: Value,
        namespace: Option<String>,
    ) -> Result<ReconcileReport, PlannerError> {
        let kind = kind_of(&object)?;
        self.controller.plugin_for(&kind)?;
        if self.kubernetes.is_namespaced(&kind).await? {
            name_namespace(&mut object, namespace)?;
        }
        let meta =
            ObjectMeta::of(&object).map_err(|error| PlannerError::File(error.to_string()))?;
        let reference = meta.object;
        let before = match self.kubernetes.get(reference.clone()).await {
            Ok(found) => Some(found),
            Err(CallError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let request = ApplyRequest {
            field_manager: FILE_MANAGER.to_owned(),
            object,
            force: true,
            status: false,
            dry_run: true,
        };
        let stored = self.kubernetes.apply(request).await?;
        let first = file_step(&reference, before.as_ref(), &stored);
        let mut report = self.controller.plan(&reference, Some(stored)).await?;
        if let Some(first) = first {
            let text =
                "the first step is the file itself, and is not done: what follows presumes it";
            report.remarks.insert(0, text.to_owned());
            report.steps.insert(0, first);
        }
        Ok(report)
    }
}

/// What applying the file would change, defaults included.
fn file_step(object: &ObjectRef, before: Option<&Value>, stored: &Value) -> Option<PlanStep> {
    let (change, fields) = match before {
        Some(before) => {
            (ObjectChange::Changed, step::differences(before, stored, ChangeScope::Object))
        }
        None => (ObjectChange::Created, step::differences(&json!({}), stored, ChangeScope::Object)),
    };
    if change == ObjectChange::Changed && fields.is_empty() {
        return None;
    }
    let (by, object) = ("file".to_owned(), object.clone());
    Some(PlanStep::new(StepEffect::Object { by, object, change, fields }))
}

fn part(report: &ReconcileReport, wanted: ReportSelection) -> ReconcileReport {
    let mut report = report.clone();
    if wanted.part == ReportPart::Writes {
        report.calls.clear();
        report.calls_left_out = 0;
    }
    report
}

fn kind_of(object: &Value) -> Result<KindName, PlannerError> {
    let text = |field: &str| match object.get(field).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(PlannerError::File(format!("it has no `{field}`"))),
    };
    Ok(KindName { api_version: text("apiVersion")?, kind: text("kind")? })
}

/// Gives an object the namespace that was named, unless it names one.
fn name_namespace(object: &mut Value, namespace: Option<String>) -> Result<(), PlannerError> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or_else(|| PlannerError::File("it has no `metadata`".to_owned()))?;
    match (metadata.get("namespace").and_then(Value::as_str), namespace) {
        (Some(named), Some(asked)) if named != asked => Err(PlannerError::File(format!(
            "it is in namespace `{named}` and `--namespace {asked}` was given"
        ))),
        (Some(_), _) => Ok(()),
        (None, namespace) => {
            let namespace = namespace.unwrap_or_else(|| NAMESPACE.to_owned());
            metadata.insert("namespace".to_owned(), namespace.into());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_s_own_namespace_counts_and_must_not_contradict() {
        let object = |metadata: Value| json!({"metadata": metadata});
        let rows = [
            (object(json!({})), None, Some("default")),
            (object(json!({})), Some("a"), Some("a")),
            (object(json!({"namespace": "a"})), None, Some("a")),
            (object(json!({"namespace": "a"})), Some("a"), Some("a")),
            (object(json!({"namespace": "a"})), Some("b"), None),
            (json!({}), None, None),
        ];
        for (mut object, asked, expected) in rows {
            let named = name_namespace(&mut object, asked.map(str::to_owned));
            let found = named.ok().and_then(|()| object["metadata"]["namespace"].as_str());
            assert_eq!(found, expected, "{object} {asked:?}");
        }
    }

    #[test]
    fn a_file_that_changes_nothing_is_no_step() {
        let kind = KindName { api_version: "a/v1".into(), kind: "K".into() };
        let reference = ObjectRef { kind, namespace: "n".into(), name: "x".into() };
        let stored = json!({"spec": {"a": 1}, "status": {"b": 1}});
        assert_eq!(file_step(&reference, Some(&stored), &stored), None);
        let made = file_step(&reference, None, &stored).unwrap();
        let StepEffect::Object { change: ObjectChange::Created, fields, .. } = made.effect else {
            panic!()
        };
        assert_eq!(fields.len(), 1, "the status is not the file's: {fields:?}");
    }
}
