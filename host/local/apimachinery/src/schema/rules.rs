//! The evaluation of a schema's CEL rules against an object and its old version.
//!
//! An old value is found for properties, for values of maps and for items of lists of type map or set. If there is
//! none, transition rules do not run.
//!
//! The cost of rules is not limited, unlike in the real server: a rule over nested lists can run long if the lists
//! are large. Rules come from CRDs, so only a user who may install CRDs can cause this.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kube_cel::cel::{Context, Value as CelValue};
use serde_json::{Value, json};

use super::SchemaNode;
use super::cel::{self, CelRule};
use crate::field_error::child;
use crate::{FieldError, FieldErrorReason};

/// Runs all rules at and below the root.
pub(super) fn check(
    root: &SchemaNode,
    new: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    walk(root, new, old, "", &cel::context(), errors);
}

fn walk(
    node: &SchemaNode,
    new: &Value,
    old: Option<&Value>,
    path: &str,
    context: &Context<'_>,
    errors: &mut Vec<FieldError>,
) {
    if !node.has_rules || new.is_null() {
        return;
    }
    check_node(node, new, old, path, context, errors);
    match new {
        Value::Object(members) => {
            for (name, member) in members {
                if let Some(schema) = node.member(name) {
                    let old = old.and_then(|old| old.get(name));
                    walk(schema, member, old, &child(path, name), context, errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = node.items.as_deref() else { return };
            for (index, item) in items.iter().enumerate() {
                let old = old.and_then(|old| node.matching_item(old, item));
                walk(schema, item, old, &format!("{path}[{index}]"), context, errors);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn check_node(
    node: &SchemaNode,
    new: &Value,
    old: Option<&Value>,
    path: &str,
    context: &Context<'_>,
    errors: &mut Vec<FieldError>,
) {
    if node.rules.is_empty() {
        return;
    }
    let unchanged = old == Some(new);
    let this = cel::value(Some(node), new);
    let old = old.map(|old| cel::value(Some(node), old));
    for rule in &node.rules {
        let applies = match (rule.is_transition, &old) {
            (true, Some(_)) => true,
            (true, None) => rule.optional_old_self,
            (false, _) => !unchanged,
        };
        if !applies {
            continue;
        }
        let mut scope = context.new_inner_scope();
        scope.add_variable_from_value("self", this.clone());
        if rule.optional_old_self {
            scope.add_variable_from_value("oldSelf", cel::optional(old.clone()));
        } else if let Some(old) = &old {
            scope.add_variable_from_value("oldSelf", old.clone());
        }
        if let Some(error) = rule.error_for(node, new, path, &scope) {
            errors.push(error);
        }
    }
}

impl CelRule {
    /// Returns the error of the rule for the value, if any. A rule whose evaluation fails is an error too.
    fn error_for(
        &self,
        node: &SchemaNode,
        new: &Value,
        path: &str,
        scope: &Context<'_>,
    ) -> Option<FieldError> {
        let field = self.field(path);
        match self.run(scope) {
            Ok(CelValue::Bool(true)) => None,
            Ok(CelValue::Bool(false)) => Some(self.refusal(field, node, new, &self.text(scope))),
            Ok(_) => {
                let text = format!("rule must evaluate to a bool: {}", self.source);
                Some(FieldError::invalid(field, &value_for_message(node, new), text))
            }
            Err(error) => {
                let text = format!("{error} evaluating rule: {}", self.source);
                Some(FieldError::invalid(field, &value_for_message(node, new), text))
            }
        }
    }

    /// Evaluates the rule. The interpreter may panic, and its input comes from clients, so a panic is caught and
    /// returned as an error.
    fn run(&self, scope: &Context<'_>) -> Result<CelValue, String> {
        catch_unwind(AssertUnwindSafe(|| self.program.execute(scope)))
            .map_err(|_| "the rule cannot be computed".to_owned())?
            .map_err(|error| error.to_string())
    }

    fn refusal(&self, field: String, node: &SchemaNode, new: &Value, text: &str) -> FieldError {
        match self.reason {
            FieldErrorReason::Required => FieldError::required(field, text),
            FieldErrorReason::Forbidden => FieldError::forbidden(field, text),
            FieldErrorReason::Duplicate => {
                FieldError::duplicate(field, &value_for_message(node, new))
            }
            FieldErrorReason::Invalid
            | FieldErrorReason::TypeInvalid
            | FieldErrorReason::NotSupported
            | FieldErrorReason::TooLong
            | FieldErrorReason::TooMany
            | FieldErrorReason::NotFound
            | FieldErrorReason::Internal => {
                FieldError::invalid(field, &value_for_message(node, new), text)
            }
        }
    }

    /// Returns the result of `messageExpression` if it is one non-empty line, else `message`, else the rule itself.
    fn text(&self, scope: &Context<'_>) -> String {
        if let Some(program) = &self.message_program
            && let Ok(CelValue::String(text)) = program.execute(scope)
            && !text.trim().is_empty()
            && !text.contains('\n')
        {
            return text.trim().to_owned();
        }
        match &self.message {
            Some(message) => message.clone(),
            None => format!("failed rule: {}", self.source),
        }
    }

    fn field(&self, path: &str) -> String {
        let full = format!("{path}{}", self.field_path.as_deref().unwrap_or_default());
        let full = full.strip_prefix('.').unwrap_or(&full);
        if full.is_empty() { "<nil>".to_owned() } else { full.to_owned() }
    }
}

/// Returns the value to print after `Invalid value:`: a scalar itself, else the name of its type.
fn value_for_message(node: &SchemaNode, value: &Value) -> Value {
    match value {
        Value::Object(_) | Value::Array(_) => json!(cel::type_name(node)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
