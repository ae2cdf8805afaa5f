//! The watch verb: a stream of the changes of a resource, from a revision, or after its current objects.
//!
//! A watch holds only a position in the history, so a client that reads slowly does not block writers. If its position
//! is dropped from the history, the stream ends with an event of code 410; the HTTP status is 200 by then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hyper::body::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use crate::http::answer::ApiResponse;
use crate::selection::WatchedObjects;
use crate::server_state::ServerState;
use crate::status::ApiError;
use crate::store::{ApiStoreChangeType, GroupResource, ListVersion, StoreEvent, StoreListRequest};
use crate::verbs::ResourceRequest;
use crate::verbs::read::{self, ResponseFormatter};
use crate::view;

/// The most events in one piece of the stream.
const BATCH_MAX: usize = 256;

struct WatchStream {
    server: Arc<ServerState>,
    served: Arc<crate::registry::ServedKind>,
    resource: GroupResource,
    namespace: Option<String>,
    selection: WatchedObjects,
    formatter: ResponseFormatter,
    latest: Receiver<u64>,
    /// The current objects that are still to be sent before the changes.
    initial: VecDeque<Arc<Value>>,
    /// Whether the bookmark that marks the end of `initial` is still to be sent.
    initial_end: bool,
    /// The revision up to which all changes are sent.
    position: u64,
    bookmarks: bool,
    bookmark_at: Instant,
    ends_at: Instant,
    ended: bool,
}

/// Answers a GET with `watch=true`.
pub(crate) fn watch(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let query = &request.call.query;
    let send_initial = check(request)?;
    let requested = read::revision(query)?.unwrap_or(0);
    let server = request.server;
    let resource = &request.served.resource;
    let selection = WatchedObjects::of(&request.served, query, request.path.name.as_deref())?;
    // Subscribes before it reads the current objects, so that no change is missed between the two.
    let latest = server.store.subscribe(resource);
    let (initial, position) = if send_initial || requested == 0 {
        let page = server.store.page(&StoreListRequest {
            resource,
            namespace: request.path.namespace.as_deref(),
            at: ListVersion::NotOlderThan(requested),
            after: None,
            limit: None,
            filter: &|object| selection.matches(object),
        });
        let page = page.map_err(|_| {
            ApiError::too_large_resource_version(requested, server.store.revision())
        })?;
        (page.objects.into(), page.revision)
    } else {
        let current = server.store.revision();
        if current < requested {
            return Err(ApiError::too_large_resource_version(requested, current));
        }
        (VecDeque::new(), requested)
    };
    let bookmarks = query.flag("allowWatchBookmarks");
    let now = Instant::now();
    let timeout = query.number("timeoutSeconds")?.filter(|seconds| *seconds != 0);
    let timeout = timeout.map_or(server.options.watch_timeout, Duration::from_secs);
    let watch = WatchStream {
        server: Arc::clone(server),
        served: Arc::clone(&request.served),
        resource: resource.clone(),
        namespace: request.path.namespace.clone(),
        selection,
        formatter: ResponseFormatter::of(request)?,
        latest,
        initial,
        initial_end: send_initial && bookmarks,
        position,
        bookmarks,
        bookmark_at: now + server.options.bookmark_interval,
        ends_at: now + timeout.min(TIMEOUT_MAX),
        ended: false,
    };
    let pieces = futures::stream::unfold(watch, |mut watch| async {
        let piece = watch.next().await?;
        Some((piece, watch))
    });
    Ok(ApiResponse::Stream { content_type: "application/json", pieces: pieces.boxed() })
}

/// The longest duration of a watch, whatever its `timeoutSeconds`.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Checks `sendInitialEvents` and `resourceVersionMatch`, which depend on each other. Returns true if the current
/// objects are to be sent first.
fn check(request: &ResourceRequest<'_>) -> Result<bool, ApiError> {
    let query = &request.call.query;
    let rule = query.text("resourceVersionMatch");
    let refuse = |message: &str| Err(ApiError::new(422, "Invalid", message));
    match (query.contains("sendInitialEvents"), rule) {
        (false, None) => Ok(false),
        (false, Some(_)) => refuse(
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (true, Some("NotOlderThan")) => Ok(query.flag("sendInitialEvents")),
        (true, _) => {
            refuse("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        }
    }
}

impl WatchStream {
    /// Returns the next lines to send, or `None` once the watch has ended.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            let mut lines = Vec::new();
            self.collect(&mut lines);
            if !lines.is_empty() {
                return Some(Bytes::from(lines));
            }
            if self.ended {
                return None;
            }
            let wake = self.bookmark_at.min(self.ends_at);
            let stop = self.server.stop.clone();
            tokio::select! {
                () = stop.cancelled() => self.ended = true,
                changed = self.latest.changed() => self.ended |= changed.is_err(),
                () = sleep_until(wake) => {
                    if let Some(line) = self.tick() {
                        return Some(line);
                    }
                }
            }
        }
    }

    /// Ends the watch if its time is over or its kind is no longer served, and returns a bookmark if the client
    /// requested bookmarks.
    fn tick(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        self.ended |= self.ends_at <= now;
        let kind = &self.served.kind;
        self.ended |= self.server.registry.find(&kind.group, &kind.version, &kind.plural).is_err();
        self.bookmark_at = now + self.server.options.bookmark_interval;
        let mut line = Vec::new();
        if self.bookmarks {
            write(&mut line, "BOOKMARK", &self.formatter.bookmark(self.position, false));
        }
        (!line.is_empty()).then(|| Bytes::from(line))
    }

    /// Writes the events that are available now, at most one batch.
    fn collect(&mut self, lines: &mut Vec<u8>) {
        let now = Timestamp::now();
        if !self.initial.is_empty() {
            let count = self.initial.len().min(BATCH_MAX);
            for stored in self.initial.drain(..count) {
                let shown = view::show(&self.served, &stored);
                write(lines, "ADDED", &self.formatter.format(&shown, now));
            }
            return;
        }
        if std::mem::take(&mut self.initial_end) {
            write(lines, "BOOKMARK", &self.formatter.bookmark(self.position, true));
            return;
        }
        loop {
            self.latest.mark_unchanged();
            let changes = self.server.store.changes(&self.resource, self.position, BATCH_MAX);
            let Some((events, position)) = changes else {
                let failure = ApiError::expired(format!(
                    "too old resource version: {}; list again",
                    self.position
                ));
                write(lines, "ERROR", &failure.to_value());
                self.ended = true;
                return;
            };
            self.position = position;
            for event in &events {
                self.send(lines, event, now);
            }
            if !lines.is_empty() || events.len() < BATCH_MAX {
                return;
            }
        }
    }

    /// Writes one change as an event, if it concerns the selection of this watch.
    fn send(&self, lines: &mut Vec<u8>, event: &StoreEvent, now: Timestamp) {
        if self.namespace.as_deref().is_some_and(|namespace| namespace != &*event.key.namespace) {
            return;
        }
        let before =
            event.previous.as_ref().is_some_and(|previous| self.selection.matches(previous));
        let after =
            event.change != ApiStoreChangeType::Deleted && self.selection.matches(&event.object);
        let (event_type, stored) = match (before, after) {
            (false, false) => return,
            (false, true) => ("ADDED", Arc::clone(&event.object)),
            (true, true) => ("MODIFIED", Arc::clone(&event.object)),
            (true, false) if event.change == ApiStoreChangeType::Deleted => {
                ("DELETED", Arc::clone(&event.object))
            }
            (true, false) => ("DELETED", event.last_seen()),
        };
        let shown = view::show(&self.served, &stored);
        write(lines, event_type, &self.formatter.format(&shown, now));
    }
}

/// Writes an event; `type` is the first member, because clients parse the line from left to right.
fn write(lines: &mut Vec<u8>, event_type: &str, object: &Value) {
    lines.extend_from_slice(format!("{{\"type\":\"{event_type}\",\"object\":").as_bytes());
    let text = serde_json::to_vec(object).unwrap_or_else(|_| b"null".to_vec());
    lines.extend_from_slice(&text);
    lines.extend_from_slice(b"}\n");
}
