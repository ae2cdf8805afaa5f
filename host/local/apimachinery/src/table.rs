//! Renders objects as the rows that `kubectl get` prints: the `meta.k8s.io/v1` Table.
//!
//! Built-in kinds have the columns of the real server; custom ones those of their CRD. It formats
//! and decides nothing else; the caller fills the list's own metadata in.
//!
//! Source: kubernetes `pkg/printers/internalversion/printers.go`, apiextensions-apiserver
//! `pkg/registry/customresource/tableconvertor`.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::Kind;
use crate::jsonpath::{JsonPath, JsonPathError};

mod age;
mod builtin;
mod event;
mod pod;
mod storage;

pub use age::{age_since, human_duration};

/// One column of a table.
#[derive(Clone, Debug)]
pub struct TableColumn {
    /// Header: `Name`. kubectl prints it in capitals.
    pub name: String,
    /// JSON type of the cells: `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// OpenAPI format; `name` marks the column that kubectl takes names from.
    pub format: String,
    /// What the column says, for clients that show it.
    pub description: String,
    /// 0 is shown always, larger ones only with `-o wide`.
    pub priority: i64,
    cell: CellSource,
}

/// How a cell is computed.
#[derive(Clone, Debug)]
enum CellSource {
    /// By a function of the object and the time.
    Computed(fn(&Value, Timestamp) -> Value),
    /// From a printer column of a CRD.
    Path(JsonPath),
}

/// How much of each object goes beside its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    /// `PartialObjectMetadata`, the default.
    Metadata,
    /// The whole object.
    Object,
    /// Nothing.
    None,
}

/// The columns of a kind; `printer_columns` is `additionalPrinterColumns` of a CRD version.
///
/// A custom kind without printer columns has `Name` and `Age`.
///
/// # Errors
///
/// Fails if a JSONPath of a printer column is outside the subset.
pub fn columns(
    kind: &Kind,
    printer_columns: Option<&Value>,
) -> Result<Vec<TableColumn>, JsonPathError> {
    let printer_columns = printer_columns.and_then(Value::as_array).filter(|list| !list.is_empty());
    match printer_columns {
        Some(list) => {
            let custom = list.iter().map(printer_column);
            std::iter::once(Ok(TableColumn::name())).chain(custom).collect()
        }
        None => {
            Ok(builtin::columns(kind)
                .unwrap_or_else(|| vec![TableColumn::name(), TableColumn::age()]))
        }
    }
}

fn printer_column(spec: &Value) -> Result<TableColumn, JsonPathError> {
    let text = |name: &str| spec.get(name).and_then(Value::as_str).unwrap_or_default();
    Ok(TableColumn {
        name: text("name").to_owned(),
        kind: text("type").to_owned(),
        format: text("format").to_owned(),
        description: text("description").to_owned(),
        priority: spec.get("priority").and_then(Value::as_i64).unwrap_or_default(),
        cell: CellSource::Path(JsonPath::parse(text("jsonPath"))?),
    })
}

/// Renders a Table; its `metadata` is empty, for the caller to fill.
///
/// Ages are counted up to `now`, which is why a watch renders each event anew.
pub fn render(
    columns: &[TableColumn],
    objects: &[&Value],
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let definitions: Vec<Value> = columns.iter().map(TableColumn::definition).collect();
    let row = |object: &&Value| {
        let cells: Vec<Value> = columns.iter().map(|column| column.cell(object, now)).collect();
        json!({"cells": cells, "object": included(object, include)})
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": definitions,
        "rows": objects.iter().map(row).collect::<Vec<Value>>(),
    })
}

fn included(object: &Value, include: IncludeObject) -> Value {
    match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Object => object.clone(),
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new())),
        }),
    }
}

impl TableColumn {
    fn name() -> Self {
        Self {
            format: "name".to_owned(),
            ..Self::computed("Name", "string", |object, _| member_text(object, "/metadata/name"))
        }
    }

    fn age() -> Self {
        Self::computed("Age", "string", |object, now| {
            json!(age_since(object.pointer("/metadata/creationTimestamp"), now))
        })
    }

    fn computed(name: &str, kind: &str, cell: fn(&Value, Timestamp) -> Value) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            cell: CellSource::Computed(cell),
        }
    }

    /// Only with `-o wide`.
    fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }

    fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        match &self.cell {
            CellSource::Computed(compute) => compute(object, now),
            CellSource::Path(path) => {
                let found = path.first(object);
                found.map_or(Value::Null, |value| self.custom_cell(value, now))
            }
        }
    }

    /// What the real server makes of a value for the type of a printer column; what does not fit
    /// the type is empty.
    fn custom_cell(&self, value: &Value, now: Timestamp) -> Value {
        match (self.kind.as_str(), value) {
            ("string", Value::String(_)) => value.clone(),
            ("string", Value::Null) => Value::Null,
            ("string", other) => json!(other.to_string()),
            ("date", Value::String(_)) => json!(age_since(Some(value), now)),
            ("integer", Value::Number(number)) => number
                .as_i64()
                .map_or_else(|| json!(number.as_f64().map(f64::trunc)), |whole| json!(whole)),
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
            _ => Value::Null,
        }
    }
}

/// What stands where there is nothing.
const NONE: &str = "<none>";

/// Text at a pointer; empty if absent.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Text at a pointer as a cell.
fn member_text(object: &Value, pointer: &str) -> Value {
    json!(text(object, pointer))
}

/// Text at a pointer as a cell, `<none>` if absent or empty.
fn text_or_none(object: &Value, pointer: &str) -> Value {
    json!(or_none(text(object, pointer).to_owned()))
}

fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// The items of the list at a pointer; none if absent.
fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// How many members the map at a pointer has.
fn member_count(object: &Value, pointer: &str) -> usize {
    object.pointer(pointer).and_then(Value::as_object).map_or(0, Map::len)
}

/// A map of strings as `a=b,c=d`, `<none>` if empty.
fn labels(map: Option<&Value>) -> String {
    let members = map.and_then(Value::as_object).into_iter().flatten();
    let pairs =
        members.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
    let mut pairs: Vec<String> = pairs.collect();
    pairs.sort();
    or_none(pairs.join(","))
}

#[cfg(test)]
mod tests;
