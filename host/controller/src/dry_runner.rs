//! Dry runs and reports for the commands `plan` and `calls`: finds the object that arguments name, and makes dry runs
//! for files. Not the planner of a plugin, which decides what the plugin does.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tholepin_core::{
    CallError, MissingObjectField, ObjectMeta, ObjectRef, PlanStep, PlanStepEffect,
    ReconcileReport,
    port::{ApplyRequest, Kubernetes},
    step::{self, PlanStepChangeType, WritableObjectPart},
};
use tholepin_schema::manifest::KindName;

use crate::{controller::Controller, dry_run::DryRunError, kinds::ApiKinds};

/// The namespace of an object that names none.
pub(crate) const NAMESPACE: &str = "default";
/// The field manager of the request for the API server's dry run of a file: that of `kubectl apply --server-side`.
const FILE_MANAGER: &str = "kubectl";

/// An object as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectArgument {
    /// A kind, plural or short name.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The object of a dry run.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DryRunObjectSource {
    /// An object as it is stored.
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

/// Selects reports of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReconcileReportSelection {
    /// Only the report with this number.
    pub number: Option<u64>,
    /// The part of each report.
    pub part: DryRunReportPart,
}

/// A part of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DryRunReportPart {
    /// All calls.
    #[default]
    Calls,
    /// The writes; reports without writes are left out.
    Writes,
}

/// Why there is no dry run or no report.
#[derive(Debug, thiserror::Error)]
pub enum DryRunnerError {
    /// No followed kind has this name.
    #[error(
        "no active plugin reconciles a kind `{argument}`; reconciled are: {known}; `tholepin plugin list` \
         shows the plugins"
    )]
    NoKind {
        /// The argument.
        argument: String,
        /// The kinds that active plugins reconcile.
        known: String,
    },
    /// The object does not exist.
    #[error("{0} does not exist")]
    NoObject(ObjectRef),
    /// The object exists, and the host has no report of it.
    #[error("{0} was not reconciled since this host started")]
    NotReconciled(ObjectRef),
    /// The host does not keep the report with this number.
    #[error("reconcile {number} of {object} is not kept; kept are {kept}")]
    NoReport {
        /// The requested number.
        number: u64,
        /// The object.
        object: ObjectRef,
        /// The numbers of the kept reports.
        kept: String,
    },
    /// The file holds no object.
    #[error("the file holds no object that can be applied")]
    File(#[from] ObjectFileError),
    /// The controller cannot make the dry run.
    #[error(transparent)]
    DryRun(#[from] DryRunError),
    /// The API server refuses a request, or does not answer.
    #[error("the API server")]
    Kubernetes(#[from] CallError),
}

/// Why the content of a file is no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectFileError {
    /// A field is missing.
    #[error("it has no `{0}`")]
    NoField(&'static str),
    /// The metadata cannot be read.
    #[error(transparent)]
    Object(#[from] MissingObjectField),
    /// The file and the command line name different namespaces.
    #[error("it is in namespace `{named}` and `--namespace {requested}` was given")]
    OtherNamespace {
        /// The namespace in the file.
        named: String,
        /// The namespace on the command line.
        requested: String,
    },
}

/// Makes dry runs and reads reports for the command line.
pub struct DryRunner {
    controller: Arc<Controller>,
    kinds: Arc<dyn ApiKinds>,
}

impl DryRunner {
    /// Creates a dry runner over a controller.
    #[must_use]
    pub fn new(controller: Arc<Controller>, kinds: Arc<dyn ApiKinds>) -> Self {
        Self { controller, kinds }
    }

    /// Makes a dry run of one reconcile.
    ///
    /// # Errors
    ///
    /// Fails if no plugin reconciles the kind, the object does not exist, or the API server refuses it.
    pub async fn dry_run(
        &self,
        request: DryRunObjectSource,
    ) -> Result<ReconcileReport, DryRunnerError> {
        match request {
            DryRunObjectSource::Object(argument) => {
                let object = self.object(&argument).await?;
                Ok(self.controller.dry_run(&object, None).await?)
            }
            DryRunObjectSource::File { object, namespace } => {
                self.dry_run_file(object, namespace).await
            }
        }
    }

    /// Returns the reports of the last reconciles of an object, the oldest first.
    ///
    /// # Errors
    ///
    /// Fails if no plugin reconciles the kind, or the host has no report of the object or none of this number.
    pub async fn calls(
        &self,
        argument: &ObjectArgument,
        selection: ReconcileReportSelection,
    ) -> Result<Vec<ReconcileReport>, DryRunnerError> {
        let object = self.object(argument).await?;
        let known = self.controller.calls(&object);
        if known.is_empty() {
            return Err(match self.kubernetes().view().meta(&object) {
                Some(_) => DryRunnerError::NotReconciled(object),
                None => DryRunnerError::NoObject(object),
            });
        }
        let is_selected = |report: &&Arc<ReconcileReport>| match selection.number {
            Some(number) => report.number == number,
            None => selection.part == DryRunReportPart::Calls || !report.steps.is_empty(),
        };
        let found: Vec<_> =
            known.iter().filter(is_selected).map(|report| part(report, selection)).collect();
        if let (Some(number), true) = (selection.number, found.is_empty()) {
            let kept: Vec<_> = known.iter().map(|report| report.number.to_string()).collect();
            return Err(DryRunnerError::NoReport { number, object, kept: kept.join(", ") });
        }
        Ok(found)
    }

    /// Returns the kind that a request is about.
    ///
    /// # Errors
    ///
    /// Fails if no plugin reconciles it.
    pub async fn kind(&self, request: &DryRunObjectSource) -> Result<KindName, DryRunnerError> {
        match request {
            DryRunObjectSource::Object(argument) => Ok(self.object(argument).await?.kind),
            DryRunObjectSource::File { object, namespace: _ } => Ok(kind_of(object)?),
        }
    }

    /// Returns the object that an argument names.
    ///
    /// # Errors
    ///
    /// Fails if no plugin reconciles such a kind.
    pub async fn object(&self, argument: &ObjectArgument) -> Result<ObjectRef, DryRunnerError> {
        let ObjectArgument { kind, name, namespace } = argument;
        // Includes the kinds of plugins that are not loaded any more.
        let mut kinds = self.controller.kinds();
        kinds.extend(self.controller.followed().into_iter().map(|(_, kind)| kind));
        let found = self.kinds.find(kind, &kinds).await?;
        let found = found.ok_or_else(|| DryRunnerError::NoKind {
            argument: kind.clone(),
            known: self.controller.known_kinds(),
        })?;
        let namespace = if found.is_namespaced {
            namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned())
        } else {
            String::new()
        };
        Ok(ObjectRef { kind: found.kind, namespace, name: name.clone() })
    }

    /// Makes a dry run for the object of a file as the API server would store it: a dry run of that server adds
    /// defaults and validates.
    async fn dry_run_file(
        &self,
        mut object: Value,
        namespace: Option<String>,
    ) -> Result<ReconcileReport, DryRunnerError> {
        let kind = kind_of(&object)?;
        self.controller.plugin_for(&kind)?;
        if self.kinds.is_namespaced(&kind).await? {
            set_namespace(&mut object, namespace)?;
        }
        let reference = ObjectMeta::of(&object).map_err(ObjectFileError::Object)?.object;
        let before = match self.kubernetes().get(reference.clone()).await {
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
        let stored = self.kubernetes().apply(request).await?;
        let first = file_step(&reference, before.as_ref(), &stored);
        let mut report = self.controller.dry_run(&reference, Some(stored)).await?;
        if let Some(first) = first {
            let text =
                "the first step is the file itself, and is not done: what follows presumes it";
            report.remarks.insert(0, text.to_owned());
            report.steps.insert(0, first);
        }
        Ok(report)
    }

    fn kubernetes(&self) -> &dyn Kubernetes {
        &*self.controller.shared.ports.kubernetes
    }
}

/// Returns the step of applying the file, with the defaults of the API server, if it changes something.
fn file_step(object: &ObjectRef, before: Option<&Value>, stored: &Value) -> Option<PlanStep> {
    let (change, fields) = match before {
        Some(before) => (
            PlanStepChangeType::Changed,
            step::differences(before, stored, WritableObjectPart::Object),
        ),
        None => (
            PlanStepChangeType::Created,
            step::differences(&json!({}), stored, WritableObjectPart::Object),
        ),
    };
    if change == PlanStepChangeType::Changed && fields.is_empty() {
        return None;
    }
    let (by, object) = ("file".to_owned(), object.clone());
    Some(PlanStep::new(PlanStepEffect::Object { by, object, change, fields }))
}

fn part(report: &ReconcileReport, selection: ReconcileReportSelection) -> ReconcileReport {
    let mut report = report.clone();
    if selection.part == DryRunReportPart::Writes {
        report.calls.clear();
        report.calls_left_out = 0;
    }
    report
}

fn kind_of(object: &Value) -> Result<KindName, ObjectFileError> {
    let text = |field: &'static str| match object.get(field).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(ObjectFileError::NoField(field)),
    };
    Ok(KindName { api_version: text("apiVersion")?, kind: text("kind")? })
}

/// Sets the requested namespace on an object that has none.
fn set_namespace(object: &mut Value, requested: Option<String>) -> Result<(), ObjectFileError> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or(ObjectFileError::NoField("metadata"))?;
    match (metadata.get("namespace").and_then(Value::as_str), requested) {
        (Some(named), Some(requested)) if named != requested => {
            Err(ObjectFileError::OtherNamespace { named: named.to_owned(), requested })
        }
        (Some(_), _) => Ok(()),
        (None, requested) => {
            let namespace = requested.unwrap_or_else(|| NAMESPACE.to_owned());
            metadata.insert("namespace".to_owned(), namespace.into());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_of_a_file_counts_and_must_equal_the_requested_one() {
        let object = |metadata: Value| json!({"metadata": metadata});
        let rows = [
            (object(json!({})), None, Some("default")),
            (object(json!({})), Some("a"), Some("a")),
            (object(json!({"namespace": "a"})), None, Some("a")),
            (object(json!({"namespace": "a"})), Some("a"), Some("a")),
            (object(json!({"namespace": "a"})), Some("b"), None),
            (json!({}), None, None),
        ];
        for (mut object, requested, expected) in rows {
            let set = set_namespace(&mut object, requested.map(str::to_owned));
            let found = set.ok().and_then(|()| object["metadata"]["namespace"].as_str());
            assert_eq!(found, expected, "{object} {requested:?}");
        }
    }

    #[test]
    fn a_file_that_changes_nothing_has_no_step() {
        let kind = KindName { api_version: "a/v1".into(), kind: "K".into() };
        let reference = ObjectRef { kind, namespace: "n".into(), name: "x".into() };
        let stored = json!({"spec": {"a": 1}, "status": {"b": 1}});
        assert_eq!(file_step(&reference, Some(&stored), &stored), None);
        let step = file_step(&reference, None, &stored).unwrap();
        let PlanStepEffect::Object { change: PlanStepChangeType::Created, fields, .. } =
            step.effect
        else {
            panic!("{step:?}")
        };
        assert_eq!(fields.len(), 1, "the status is not the file's: {fields:?}");
    }

    #[test]
    fn an_error_names_each_fact_once() {
        let error = DryRunnerError::from(ObjectFileError::NoField("kind"));
        let text = tholepin_core::ErrorChain(&error).to_string();
        assert_eq!(text, "the file holds no object that can be applied: it has no `kind`");
        let error = DryRunnerError::from(CallError::Denied("no list".to_owned()));
        let text = tholepin_core::ErrorChain(&error).to_string();
        assert_eq!(text, "the API server: denied: no list");
    }
}
