//! The `meta.k8s.io/v1` Table: objects as the rows that `kubectl get` prints.
//!
//! Built-in kinds have the columns of the real server, custom kinds those of their CRD. The caller sets the list's
//! own metadata.
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
    /// Header, such as `Name`; kubectl prints it in upper case.
    pub name: String,
    /// JSON type of the cells: `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// OpenAPI format; `name` marks the column from which kubectl reads names.
    pub format: String,
    /// Description, for clients that show it.
    pub description: String,
    /// kubectl shows a column with a priority above 0 only with `-o wide`.
    pub priority: i64,
    cell: TableCellSource,
}

/// The computation of a cell.
#[derive(Clone, Debug)]
enum TableCellSource {
    /// A function of the object and the time.
    Computed(fn(&Value, Timestamp) -> Value),
    /// The JSONPath of a CRD's printer column.
    Path(JsonPath),
}

/// The part of each object that the table includes with its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    /// `PartialObjectMetadata`, the default.
    Metadata,
    /// The whole object.
    Object,
    /// No part.
    None,
}

/// Returns the columns of a kind; `printer_columns` is `additionalPrinterColumns` of a CRD version.
///
/// A custom kind without printer columns has the columns `Name` and `Age`.
///
/// # Errors
///
/// Fails if the JSONPath of a printer column is outside the supported subset.
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
        cell: TableCellSource::Path(JsonPath::parse(text("jsonPath"))?),
    })
}

/// Renders a Table; its `metadata` is empty, and the caller sets it.
///
/// Ages are computed from `now`, so a watch must render each event at the time at which it sends it.
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
            cell: TableCellSource::Computed(cell),
        }
    }

    /// Makes the column one that kubectl shows only with `-o wide`.
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
            TableCellSource::Computed(compute) => compute(object, now),
            TableCellSource::Path(path) => {
                let found = path.first(object);
                found.map_or(Value::Null, |value| self.custom_cell(value, now))
            }
        }
    }

    /// Converts a value to the type of its printer column as the real server does; a value of another type gives an
    /// empty cell.
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

/// The text of a cell without a value.
const NONE: &str = "<none>";

/// Returns the text at a JSON pointer; empty if absent.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the text at a JSON pointer as a cell.
fn member_text(object: &Value, pointer: &str) -> Value {
    json!(text(object, pointer))
}

/// Returns the text at a JSON pointer as a cell; `<none>` if absent or empty.
fn text_or_none(object: &Value, pointer: &str) -> Value {
    json!(or_none(text(object, pointer).to_owned()))
}

fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// Returns the items of the list at a JSON pointer; an empty list if absent.
fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Returns the number of members of the map at a JSON pointer.
fn member_count(object: &Value, pointer: &str) -> usize {
    object.pointer(pointer).and_then(Value::as_object).map_or(0, Map::len)
}

/// Formats a map of strings as `a=b,c=d`; `<none>` if empty.
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
