//! Refused wake triggers: which of them are reported, when, and with which text.
//!
//! Invariants:
//! - A trigger that is refused for a reason that can pass is reported only after [`PASSING_GRACE`], so that the
//!   condition does not appear and disappear while the host starts or the API server is away.
//! - Equal refusals have equal texts, so that the condition is written once.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use tholepin_core::{CallError, ReconcileKey};
use tokio::time::Instant;

/// How long triggers may fail for reasons that can pass (a kind is not watched yet, a server is away) before
/// they are reported. Watches of a new plugin need a few seconds.
const PASSING_GRACE: Duration = Duration::from_secs(10);
/// The most refused triggers that one text shows; more are counted.
const SHOWN_MAX: usize = 3;
/// The most characters of one refused trigger in a text. Values of facts are the plugin's and can be long.
const SHOWN_CHARS_MAX: usize = 300;

/// A trigger of an outcome that is not in force.
pub(super) struct RefusedWake {
    /// Where it is in the outcome, and what it is.
    pub(super) trigger: String,
    pub(super) error: CallError,
}

/// Since when triggers of each key fail for reasons that can pass.
#[derive(Default)]
pub(super) struct PassingRefusals {
    since: BTreeMap<ReconcileKey, Instant>,
}

/// What follows from the refused triggers of one outcome.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WakeRefusalReport {
    /// The text for the condition; absent if there is nothing to report yet.
    pub(super) text: Option<String>,
    /// The delay after which those that can pass must be tried again.
    pub(super) retry: Option<Duration>,
}

impl PassingRefusals {
    /// Returns what follows from the refused triggers of the last outcome of a key.
    pub(super) fn report(
        &mut self,
        key: &ReconcileKey,
        refused: &[RefusedWake],
        now: Instant,
    ) -> WakeRefusalReport {
        let mut remaining = None;
        if refused.iter().any(RefusedWake::can_pass) {
            let since = *self.since.entry(key.clone()).or_insert(now);
            let age = now.saturating_duration_since(since);
            remaining = PASSING_GRACE.checked_sub(age).filter(|remaining| !remaining.is_zero());
        } else {
            self.since.remove(key);
        }
        let is_due = |refused: &&RefusedWake| remaining.is_none() || !refused.can_pass();
        let due: Vec<&RefusedWake> = refused.iter().filter(is_due).collect();
        WakeRefusalReport { text: (!due.is_empty()).then(|| text(&due)), retry: remaining }
    }

    pub(super) fn forget(&mut self, key: &ReconcileKey) {
        self.since.remove(key);
    }
}

impl RefusedWake {
    fn can_pass(&self) -> bool {
        // A kind that is not watched yet is `Unsupported`.
        self.error.is_passing() || matches!(self.error, CallError::Unsupported(_))
    }
}

fn text(refused: &[&RefusedWake]) -> String {
    let mut text = "wake triggers of the outcome are refused and do not wake the object".to_owned();
    for (index, RefusedWake { trigger, error }) in refused.iter().take(SHOWN_MAX).enumerate() {
        let separator = if index == 0 { ": " } else { "; " };
        let shown = shorten(format!("{trigger}: {error}"));
        text.push_str(separator);
        text.push_str(&shown);
    }
    let more = refused.len().saturating_sub(SHOWN_MAX);
    if more != 0 {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "; and {more} more");
    }
    text
}

fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(SHOWN_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tholepin_schema::manifest::KindName;

    fn key() -> ReconcileKey {
        let kind = KindName { api_version: "a/v1".into(), kind: "K".into() };
        let (namespace, name) = ("n".to_owned(), "x".to_owned());
        ReconcileKey { plugin: "p".parse().unwrap(), kind, namespace, name }
    }

    fn refused(error: CallError) -> RefusedWake {
        RefusedWake { trigger: ".wake[0]".to_owned(), error }
    }

    #[test]
    fn a_reason_that_can_pass_is_reported_after_a_while_and_then_stays() {
        let (mut refusals, start) = (PassingRefusals::default(), Instant::now());
        let mut report = |refused: &[RefusedWake], seconds| {
            let now = start + Duration::from_secs(seconds);
            let WakeRefusalReport { text, retry } = refusals.report(&key(), refused, now);
            (text.is_some(), retry.map(|retry| retry.as_secs()))
        };
        let unwatched = || [refused(CallError::Unsupported("is not watched (yet)".into()))];
        let away = || [refused(CallError::Transient("away".into()))];
        assert_eq!(report(&unwatched(), 0), (false, Some(10)));
        assert_eq!(report(&away(), 9), (false, Some(1)), "another reason, the same failure");
        assert_eq!(report(&unwatched(), 10), (true, None), "no retry, so no loop");
        assert_eq!(report(&unwatched(), 20), (true, None), "the condition stays");
        assert_eq!(report(&[], 21), (false, None));
        assert_eq!(report(&unwatched(), 22), (false, Some(10)), "it worked in between");
    }

    #[test]
    fn a_reason_that_cannot_pass_is_reported_immediately_and_without_the_others() {
        let mut refusals = PassingRefusals::default();
        let both = [
            refused(CallError::Unsupported("is not watched (yet)".into())),
            refused(CallError::Denied("no grant".into())),
        ];
        let text = refusals.report(&key(), &both, Instant::now()).text.unwrap();
        assert!(text.contains("no grant") && !text.contains("not watched"), "{text}");
    }

    #[test]
    fn a_text_is_bounded() {
        let long = || refused(CallError::Invalid("ü".repeat(1 << 20)));
        let many: Vec<RefusedWake> = (0..100).map(|_| long()).collect();
        let text = PassingRefusals::default().report(&key(), &many, Instant::now()).text.unwrap();
        assert!(text.chars().count() < 1024 && text.ends_with("and 97 more"), "{text}");
    }
}
