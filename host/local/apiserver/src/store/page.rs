//! Lists of a resource at one revision, in pages.
//!
//! A page at an earlier revision is the current state with the later changes undone, so the pages of one list are
//! consistent while the history reaches back to the revision of the first page.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{GroupResource, NamespacedName, ObjectStore};

/// The revision of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListVersion {
    /// The current revision.
    Latest,
    /// The current revision, which must not be older than this one.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exact(u64),
}

/// The parameters of a list.
pub(crate) struct StoreListRequest<'a> {
    /// The resource.
    pub(crate) resource: &'a GroupResource,
    /// The namespace; `None` lists all.
    pub(crate) namespace: Option<&'a str>,
    /// The revision.
    pub(crate) at: ListVersion,
    /// The key after which the page begins.
    pub(crate) after: Option<&'a NamespacedName>,
    /// The most objects of the page.
    pub(crate) limit: Option<usize>,
    /// Returns true for the objects to list.
    pub(crate) filter: &'a dyn Fn(&Arc<Value>) -> bool,
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct ListPage {
    /// The objects, ordered by namespace and name.
    pub(crate) objects: Vec<Arc<Value>>,
    /// The revision of the list.
    pub(crate) revision: u64,
    /// The last key of this page, if another page follows.
    pub(crate) more_after: Option<NamespacedName>,
    /// The number of stored objects after this page, whether they pass `filter` or not.
    pub(crate) remaining: usize,
}

/// The error of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StoreListError {
    /// The history no longer reaches back to the revision.
    Expired,
    /// The revision does not exist yet; the field is the current one.
    Future(u64),
}

impl ObjectStore {
    /// Returns a page of a list.
    ///
    /// # Errors
    ///
    /// Fails if the requested revision is too old or does not exist yet.
    pub(crate) fn page(&self, request: &StoreListRequest<'_>) -> Result<ListPage, StoreListError> {
        let state = self.lock();
        let now = state.revision;
        let revision = match request.at {
            ListVersion::Latest => now,
            ListVersion::NotOlderThan(requested) | ListVersion::Exact(requested)
                if now < requested =>
            {
                return Err(StoreListError::Future(now));
            }
            ListVersion::NotOlderThan(_) => now,
            ListVersion::Exact(requested) => requested,
        };
        let Some(table) = state.tables.get(request.resource) else {
            return Ok(ListPage { objects: Vec::new(), revision, more_after: None, remaining: 0 });
        };
        // For each key that changed later: its object at `revision`.
        let mut undone: BTreeMap<&NamespacedName, Option<&Arc<Value>>> = BTreeMap::new();
        let later = if revision < now {
            table.history.after(revision, usize::MAX).ok_or(StoreListError::Expired)?
        } else {
            Vec::new()
        };
        for event in &later {
            undone.entry(&event.key).or_insert(event.previous.as_ref());
        }
        let inside = |key: &NamespacedName| {
            request.namespace.is_none_or(|namespace| *key.namespace == *namespace)
        };
        let start = match (request.after, request.namespace) {
            (Some(after), _) => after.clone(),
            (None, Some(namespace)) => NamespacedName::new(namespace, ""),
            (None, None) => NamespacedName::new("", ""),
        };
        let follows = |key: &NamespacedName| request.after.is_none_or(|after| after < key);
        let limit = request.limit.unwrap_or(usize::MAX);
        let present = table
            .objects
            .range(start..)
            .take_while(|(key, _)| inside(key))
            .filter(|(key, _)| follows(key) && !undone.contains_key(key))
            .filter(|(_, object)| (request.filter)(object))
            .take(limit.saturating_add(1));
        let past = undone
            .iter()
            .filter_map(|(key, object)| object.map(|object| (*key, object)))
            .filter(|(key, object)| inside(key) && follows(key) && (request.filter)(object));
        let mut found: Vec<(&NamespacedName, &Arc<Value>)> = present.chain(past).collect();
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
