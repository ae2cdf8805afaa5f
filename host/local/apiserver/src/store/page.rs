//! Lists a resource as it was at one revision, in pages.
//!
//! A page in the past is the present with the later changes undone, so pages of one list are
//! consistent for as long as the history reaches back to its first page.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{GroupResource, ObjectKey, ObjectStore};

/// Which moment a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListVersion {
    /// Now.
    Latest,
    /// Now, provided now is not before this revision.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exact(u64),
}

/// What to list.
pub(crate) struct ListRequest<'a> {
    /// The resource.
    pub(crate) resource: &'a GroupResource,
    /// Only this namespace.
    pub(crate) namespace: Option<&'a str>,
    /// The moment.
    pub(crate) at: ListVersion,
    /// Begin after this key.
    pub(crate) after: Option<&'a ObjectKey>,
    /// The most objects to return.
    pub(crate) limit: Option<usize>,
    /// Whether an object is wanted.
    pub(crate) wanted: &'a dyn Fn(&Arc<Value>) -> bool,
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct ListPage {
    /// The objects, ordered by namespace and name.
    pub(crate) objects: Vec<Arc<Value>>,
    /// The revision this is about.
    pub(crate) revision: u64,
    /// The last key of this page, where more follow.
    pub(crate) more_after: Option<ObjectKey>,
    /// How many stored objects follow this page, wanted or not.
    pub(crate) remaining: usize,
}

/// Why a page could not be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ListError {
    /// The history no longer reaches back.
    Expired,
    /// The revision does not exist yet; the current one is given.
    Future(u64),
}

impl ObjectStore {
    /// Lists.
    ///
    /// # Errors
    ///
    /// The moment asked for is out of reach.
    pub(crate) fn page(&self, request: &ListRequest<'_>) -> Result<ListPage, ListError> {
        let state = self.lock();
        let now = state.revision;
        let revision = match request.at {
            ListVersion::Latest => now,
            ListVersion::NotOlderThan(asked) | ListVersion::Exact(asked) if now < asked => {
                return Err(ListError::Future(now));
            }
            ListVersion::NotOlderThan(_) => now,
            ListVersion::Exact(asked) => asked,
        };
        let Some(table) = state.tables.get(request.resource) else {
            return Ok(ListPage { objects: Vec::new(), revision, more_after: None, remaining: 0 });
        };
        // For each key that changed later: what it was at `revision`.
        let mut undone: BTreeMap<&ObjectKey, Option<&Arc<Value>>> = BTreeMap::new();
        let later = if revision < now {
            table.history.after(revision, usize::MAX).ok_or(ListError::Expired)?
        } else {
            Vec::new()
        };
        for event in &later {
            undone.entry(&event.key).or_insert(event.previous.as_ref());
        }
        let inside =
            |key: &ObjectKey| request.namespace.is_none_or(|wanted| *key.namespace == *wanted);
        let start = match (request.after, request.namespace) {
            (Some(after), _) => after.clone(),
            (None, Some(namespace)) => ObjectKey::new(namespace, ""),
            (None, None) => ObjectKey::new("", ""),
        };
        let follows = |key: &ObjectKey| request.after.is_none_or(|after| after < key);
        let limit = request.limit.unwrap_or(usize::MAX);
        let present = table
            .objects
            .range(start..)
            .take_while(|(key, _)| inside(key))
            .filter(|(key, _)| follows(key) && !undone.contains_key(key))
            .filter(|(_, object)| (request.wanted)(object))
            .take(limit.saturating_add(1));
        let past = undone
            .iter()
            .filter_map(|(key, object)| object.map(|object| (*key, object)))
            .filter(|(key, object)| inside(key) && follows(key) && (request.wanted)(object));
        let mut found: Vec<(&ObjectKey, &Arc<Value>)> = present.chain(past).collect();
        found.sort_by_key(|(key, _)| *key);
        let more = limit < found.len();
        found.truncate(limit);
        let last = found.last().map(|(key, _)| (*key).clone());
        let more_after = if more { last } else { None };
        let remaining = more_after.as_ref().map_or(0, |last| {
            let rest = table.objects.range(last.clone()..).take_while(|(key, _)| inside(key));
            rest.count().saturating_sub(1)
        });
        let objects = found.into_iter().map(|(_, object)| Arc::clone(object)).collect();
        Ok(ListPage { objects, revision, more_after, remaining })
    }
}
