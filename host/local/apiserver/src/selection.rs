//! The selection of objects for a list, a watch or the deletion of a collection.

use std::sync::Arc;

use serde_json::Value;
use tholepin_apimachinery::selector::{FieldSelector, LabelSelector, SelectorError};

use crate::http::query::QueryParameters;
use crate::registry::ServedKind;
use crate::status::ApiError;
use crate::view;

/// A filter for the objects of one kind by labels, fields and name.
pub(crate) struct WatchedObjects {
    served: Arc<ServedKind>,
    labels: LabelSelector,
    fields: FieldSelector,
    name: Option<String>,
}

impl WatchedObjects {
    /// Parses `labelSelector` and `fieldSelector`; `name` narrows the selection to one object.
    ///
    /// # Errors
    ///
    /// 400 if a selector is malformed or names a field that the kind does not support.
    pub(crate) fn of(
        served: &Arc<ServedKind>,
        query: &QueryParameters,
        name: Option<&str>,
    ) -> Result<Self, ApiError> {
        let bad = |error: SelectorError| ApiError::bad_request(error.to_string());
        let labels = LabelSelector::parse(query.text("labelSelector").unwrap_or(""));
        let fields = FieldSelector::parse(query.text("fieldSelector").unwrap_or(""), &served.kind);
        Ok(Self {
            served: Arc::clone(served),
            labels: labels.map_err(bad)?,
            fields: fields.map_err(bad)?,
            name: name.map(str::to_owned),
        })
    }

    /// Returns true if every object matches.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.name.is_none()
    }

    /// Returns true if a stored object matches.
    pub(crate) fn matches(&self, stored: &Arc<Value>) -> bool {
        if self.is_everything() {
            return true;
        }
        if self.name.as_deref().is_some_and(|name| name != crate::object::name(stored)) {
            return false;
        }
        self.labels.matches(stored)
            && (self.fields.is_empty() || self.fields.matches(&view::show(&self.served, stored)))
    }
}
