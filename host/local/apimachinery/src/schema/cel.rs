//! Compilation of `x-kubernetes-validations`, and conversion of JSON to CEL values.
//!
//! `rules` runs the compiled rules. `kube-cel` parses rules but does not type-check them, so a rule that uses a field
//! that does not exist fails only when it runs.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use base64::Engine as _;
use kube_cel::KubeCelExt as _;
use kube_cel::cel::objects::{Key, Map, OptionalValue};
use kube_cel::cel::{Context, Program, Value as CelValue};
use serde_json::{Value, json};

use super::{AdditionalProperties, SchemaNode, SchemaType, formats, scope};
use crate::{FieldError, FieldErrorReason};

/// One compiled rule of a node.
#[derive(Debug)]
pub(super) struct CelRule {
    /// The source text of the rule.
    pub(super) source: String,
    pub(super) program: Program,
    /// Whether the rule refers to `oldSelf`.
    pub(super) is_transition: bool,
    /// Whether `oldSelf` is an optional, so that the rule also runs on create.
    pub(super) optional_old_self: bool,
    pub(super) message: Option<String>,
    pub(super) message_program: Option<Program>,
    pub(super) reason: FieldErrorReason,
    /// The field that the error names, relative to the node: `.spec.a`.
    pub(super) field_path: Option<String>,
}

/// Compiles the rules of one node; a rule that does not compile is left out and reported in `errors`.
pub(super) fn compile(
    rules: &Value,
    field: &str,
    correlatable: bool,
    errors: &mut Vec<FieldError>,
) -> Vec<CelRule> {
    let Some(rules) = rules.as_array() else {
        let found = super::type_name(rules);
        errors.push(FieldError::type_invalid(field, found, "must be a list of rules"));
        return Vec::new();
    };
    let rules = rules.iter().enumerate();
    rules
        .filter_map(|(index, rule)| {
            compile_rule(rule, &format!("{field}[{index}]"), correlatable)
                .map_err(|error| errors.push(error))
                .ok()
        })
        .collect()
}

fn compile_rule(rule: &Value, field: &str, correlatable: bool) -> Result<CelRule, FieldError> {
    let text = |name: &str| rule.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let source = text("rule")
        .filter(|source| !source.trim().is_empty())
        .ok_or_else(|| FieldError::required(format!("{field}.rule"), "rule is not specified"))?;
    let program = compile_expression(source, &format!("{field}.rule"))?;
    let message = text("message");
    if let Some(message) = message.filter(|message| message.contains('\n')) {
        let why = "message must not contain line breaks";
        return Err(FieldError::invalid(format!("{field}.message"), &json!(message), why));
    }
    let message_program = text("messageExpression")
        .map(|expression| compile_expression(expression, &format!("{field}.messageExpression")))
        .transpose()?;
    let reason = FieldErrorReason::from_rule(text("reason")).ok_or_else(|| {
        let all = ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"];
        let all: Vec<Value> =
            all.into_iter().chain(["FieldValueDuplicate"]).map(Value::from).collect();
        let given = rule.get("reason").unwrap_or(&Value::Null);
        FieldError::not_supported(format!("{field}.reason"), given, &all)
    })?;
    let field_path = text("fieldPath");
    if let Some(path) = field_path.filter(|path| !path.starts_with(['.', '['])) {
        let why = "must begin with `.` or `[`";
        return Err(FieldError::invalid(format!("{field}.fieldPath"), &json!(path), why));
    }
    let optional_old_self = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
    let is_transition = program.references().has_variable("oldSelf");
    if is_transition && !correlatable {
        let why = "oldSelf cannot be used on the uncorrelatable portion of the schema (below a \
                   list that is not of type map)";
        return Err(FieldError::invalid(format!("{field}.rule"), &json!(source), why));
    }
    Ok(CelRule {
        source: source.trim().to_owned(),
        program,
        is_transition,
        optional_old_self,
        message: message.map(|message| message.trim().to_owned()),
        message_program,
        reason,
        field_path: field_path.map(str::to_owned),
    })
}

fn compile_expression(source: &str, field: &str) -> Result<Program, FieldError> {
    let invalid = |why: &str| {
        let text = format!("Invalid value: {}: compilation failed: {why}", json!(source));
        FieldError::build(field, FieldErrorReason::Invalid, text)
    };
    // The parser is generated code that may panic.
    let compiled = catch_unwind(AssertUnwindSafe(|| Program::compile(source)));
    let program = compiled
        .map_err(|_| invalid("the expression cannot be parsed"))?
        .map_err(|error| invalid(&error.to_string()))?;
    match scope::unbound_name(program.expression()) {
        Some(name) => Err(invalid(&format!("undeclared reference to '{name}'"))),
        None => Ok(program),
    }
}

/// Returns a CEL context with the functions that Kubernetes provides to rules.
pub(super) fn context() -> Context<'static> {
    Context::default().with_all()
}

/// Converts a value to CEL according to its schema node.
pub(super) fn value(node: Option<&SchemaNode>, json: &Value) -> CelValue {
    match json {
        Value::Null => CelValue::Null,
        Value::Bool(flag) => CelValue::Bool(*flag),
        Value::Number(number) => {
            let float = node.is_some_and(|node| node.kind == Some(SchemaType::Number));
            match number.as_i64() {
                Some(whole) if !float => CelValue::Int(whole),
                _ => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
            }
        }
        Value::String(text) => string(node, text),
        Value::Array(items) => {
            let schema = node.and_then(|node| node.items.as_deref());
            CelValue::List(Arc::new(items.iter().map(|item| value(schema, item)).collect()))
        }
        Value::Object(members) => {
            let is_map = node.is_some_and(|node| node.additional.is_some());
            let entry = |(name, member): (&String, &Value)| {
                // The keys of a map are data; the names of fields must be CEL identifiers.
                let key = if is_map { name.clone() } else { escape(name) };
                (Key::String(Arc::new(key)), value(node.and_then(|node| node.member(name)), member))
            };
            let map: HashMap<Key, CelValue> = members.iter().map(entry).collect();
            CelValue::Map(Map { map: Arc::new(map) })
        }
    }
}

/// Wraps a value, or its absence, in a CEL optional.
pub(super) fn optional(value: Option<CelValue>) -> CelValue {
    let optional = value.map_or_else(OptionalValue::none, OptionalValue::of);
    CelValue::Opaque(Arc::new(optional))
}

fn string(node: Option<&SchemaNode>, text: &str) -> CelValue {
    let format = node.and_then(|node| node.checks.format.as_deref());
    let typed = match format {
        Some("date-time" | "datetime") => {
            chrono::DateTime::parse_from_rfc3339(text).ok().map(CelValue::Timestamp)
        }
        Some("duration") => formats::duration_nanoseconds(text)
            .map(|nanoseconds| CelValue::Duration(chrono::Duration::nanoseconds(nanoseconds))),
        Some("byte") => base64::engine::general_purpose::STANDARD
            .decode(text)
            .ok()
            .map(|bytes| CelValue::Bytes(Arc::new(bytes))),
        _ => None,
    };
    typed.unwrap_or_else(|| CelValue::String(Arc::new(text.to_owned())))
}

/// Escapes a field's name to a CEL identifier.
///
/// Source: "Escaping" in the Kubernetes documentation of `x-kubernetes-validations`.
fn escape(name: &str) -> String {
    const RESERVED: [&str; 19] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "void",
    ];
    if RESERVED.contains(&name) || matches!(name, "var" | "while") {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

/// Returns the name of a node's type for messages.
pub(super) fn type_name(node: &SchemaNode) -> &'static str {
    match (node.kind, &node.additional) {
        (Some(kind), _) => kind.name(),
        (None, Some(AdditionalProperties::Any | AdditionalProperties::Values(_))) => "object",
        (None, None) => "",
    }
}
