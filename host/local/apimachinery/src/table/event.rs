//! The columns of events, for the fields of either API group.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{TableColumn, age_since, member_text, text};

/// Returns the columns of events.
pub(super) fn columns() -> Vec<TableColumn> {
    let first =
        TableColumn::computed("Last Seen", "string", |event, now| json!(last_seen(event, now)));
    vec![
        first,
        TableColumn::computed("Type", "string", |event, _| member_text(event, "/type")),
        TableColumn::computed("Reason", "string", |event, _| member_text(event, "/reason")),
        TableColumn::computed("Object", "string", |event, _| json!(object(event))),
        TableColumn::computed("Subobject", "string", |event, _| {
            json!(either(event, "/involvedObject/fieldPath", "/regarding/fieldPath"))
        })
        .wide(),
        TableColumn::computed("Source", "string", |event, _| json!(source(event))).wide(),
        TableColumn::computed("Message", "string", |event, _| {
            json!(either(event, "/message", "/note").trim())
        }),
        TableColumn::computed("First Seen", "string", |event, now| {
            let moment =
                present(event, &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
            json!(age_since(moment, now))
        })
        .wide(),
        TableColumn::computed("Count", "string", |event, _| {
            json!(
                present(event, &["/series/count", "/count", "/deprecatedCount"])
                    .and_then(Value::as_i64)
                    .filter(|count| *count != 0)
                    .unwrap_or(1)
            )
        })
        .wide(),
        TableColumn { format: "name".to_owned(), ..TableColumn::name() }.wide(),
    ]
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    let places =
        ["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp", "/eventTime"];
    age_since(present(event, &places), now)
}

fn object(event: &Value) -> String {
    let kind = either(event, "/involvedObject/kind", "/regarding/kind").to_lowercase();
    let name = either(event, "/involvedObject/name", "/regarding/name");
    if name.is_empty() { kind } else { format!("{kind}/{name}") }
}

fn source(event: &Value) -> String {
    let component = either(event, "/source/component", "/deprecatedSource/component");
    let host = either(event, "/source/host", "/deprecatedSource/host");
    let reporter = either(event, "/reportingComponent", "/reportingController");
    let component = if component.is_empty() { reporter } else { component };
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

fn either<'a>(event: &'a Value, one: &str, other: &str) -> &'a str {
    let found = text(event, one);
    if found.is_empty() { text(event, other) } else { found }
}

/// Returns the first of these fields that is set.
fn present<'a>(event: &'a Value, pointers: &[&str]) -> Option<&'a Value> {
    pointers.iter().filter_map(|pointer| event.pointer(pointer)).find(|value| !value.is_null())
}
