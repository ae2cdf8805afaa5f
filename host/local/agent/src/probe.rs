//! The results of a probe, and when they change the state of a container.
//!
//! This module is pure: [`ProbeResultCounter`] counts results and reports changes; [`crate::handler_actions`]
//! performs the probes.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// The kind of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// When a probe is performed and how many consecutive results count, with Kubernetes' defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeTiming {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

impl ProbeTiming {
    pub(crate) fn of(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let seconds = |value: u32| Duration::from_secs(value.into());
        let delay = probe.initial_delay_seconds.and_then(|delay| u32::try_from(delay).ok());
        Self {
            initial_delay: seconds(delay.unwrap_or(0)),
            period: seconds(at_least_one(probe.period_seconds, 10)),
            timeout: seconds(at_least_one(probe.timeout_seconds, 1)),
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
        }
    }
}

/// Counts consecutive results, and derives the verdict from them as the kubelet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeResultCounter {
    timing: ProbeTiming,
    verdict: Option<bool>,
    last: Option<bool>,
    consecutive: u32,
}

impl ProbeResultCounter {
    /// Creates the counter. Before the first result a container counts as alive and not ready; whether it has
    /// started is undecided.
    pub(crate) const fn new(kind: ProbeKind, timing: ProbeTiming) -> Self {
        let verdict = match kind {
            ProbeKind::Startup => None,
            ProbeKind::Liveness => Some(true),
            ProbeKind::Readiness => Some(false),
        };
        Self { timing, verdict, last: None, consecutive: 0 }
    }

    /// Counts a result. Returns the verdict if this result changes it.
    pub(crate) fn count(&mut self, passed: bool) -> Option<bool> {
        self.consecutive =
            if self.last == Some(passed) { self.consecutive.saturating_add(1) } else { 1 };
        self.last = Some(passed);
        let needed =
            if passed { self.timing.success_threshold } else { self.timing.failure_threshold };
        if self.consecutive < needed || self.verdict == Some(passed) {
            return None;
        }
        self.verdict = Some(passed);
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: ProbeKind, results: &[bool], verdicts: &[Option<bool>]) {
        let probe =
            Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = ProbeResultCounter::new(kind, ProbeTiming::of(&probe));
        let found: Vec<_> = results.iter().map(|passed| counter.count(*passed)).collect();
        assert_eq!(found, verdicts);
    }

    #[test]
    fn a_verdict_needs_consecutive_results_and_is_reported_once() {
        let (no, yes) = (Some(false), Some(true));
        check(ProbeKind::Readiness, &[true, true, true], &[None, yes, None]);
        check(ProbeKind::Readiness, &[true, false, true, true], &[None, None, None, yes]);
        check(ProbeKind::Readiness, &[false, false, false], &[None, None, None]);
        check(ProbeKind::Liveness, &[true, false, false, false], &[None, None, None, no]);
        check(ProbeKind::Liveness, &[false, false, true, false], &[None; 4]);
        check(ProbeKind::Startup, &[false, false, false], &[None, None, no]);
        check(ProbeKind::Startup, &[false, true, true], &[None, None, yes]);
    }

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let timing = ProbeTiming::of(&Probe { period_seconds: Some(0), ..Probe::default() });
        let seconds =
            [timing.initial_delay, timing.period, timing.timeout].map(|time| time.as_secs());
        assert_eq!(seconds, [0, 10, 1]);
        assert_eq!((timing.success_threshold, timing.failure_threshold), (1, 3));
    }
}
