//! Reports of health checks, in the formats for the kubelet, for people and for programs.

use serde_json::{Value, json};

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheckOutcome {
    /// No problem was found.
    Pass,
    /// A problem for which the host need not be taken out of service.
    Notice(String),
    /// A problem for which the host cannot do its work.
    Fail(String),
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckResult {
    /// The name of the check.
    pub name: String,
    /// The outcome.
    pub verdict: HealthCheckOutcome,
}

/// The checks of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheckReport {
    /// The checks, in the order in which they are shown.
    pub checks: Vec<HealthCheckResult>,
}

/// The format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthReportFormat {
    /// `ok`, or all checks if one fails.
    Short,
    /// All checks, one per line.
    Verbose,
    /// One JSON document.
    Json,
}

impl HealthCheckReport {
    /// Returns true if no check fails.
    #[must_use]
    pub fn passes(&self) -> bool {
        !self.checks.iter().any(|check| matches!(check.verdict, HealthCheckOutcome::Fail(_)))
    }

    /// Returns the HTTP status, the media type and the text.
    pub(crate) fn show(
        &self,
        endpoint: &str,
        format: HealthReportFormat,
    ) -> (u16, &'static str, String) {
        let code = if self.passes() { 200 } else { 503 };
        match format {
            HealthReportFormat::Json => {
                (code, "application/json", format!("{}\n", self.document()))
            }
            HealthReportFormat::Short if self.passes() => (code, TEXT, "ok\n".to_owned()),
            HealthReportFormat::Short | HealthReportFormat::Verbose => {
                (code, TEXT, self.lines(endpoint))
            }
        }
    }

    fn document(&self) -> Value {
        let checks = self.checks.iter().map(|HealthCheckResult { name, verdict }| match verdict {
            HealthCheckOutcome::Pass => json!({"name": name, "verdict": "pass"}),
            HealthCheckOutcome::Notice(text) => {
                json!({"name": name, "verdict": "notice", "message": text})
            }
            HealthCheckOutcome::Fail(text) => {
                json!({"name": name, "verdict": "fail", "message": text})
            }
        });
        json!({"passes": self.passes(), "checks": checks.collect::<Value>()})
    }

    /// Returns the text format of Kubernetes' own health endpoints.
    fn lines(&self, endpoint: &str) -> String {
        let line = |HealthCheckResult { name, verdict }: &HealthCheckResult| match verdict {
            HealthCheckOutcome::Pass => format!("[+]{name} ok\n"),
            HealthCheckOutcome::Notice(text) => format!("[+]{name} ok, but {text}\n"),
            HealthCheckOutcome::Fail(text) => format!("[-]{name} failed: {text}\n"),
        };
        let lines: String = self.checks.iter().map(line).collect();
        let end = if self.passes() { "passed" } else { "failed" };
        format!("{lines}{endpoint} check {end}\n")
    }
}

/// The media type of plain text.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[HealthCheckOutcome]) -> HealthCheckReport {
        let check = |verdict: &HealthCheckOutcome| HealthCheckResult {
            name: "x".to_owned(),
            verdict: verdict.clone(),
        };
        HealthCheckReport { checks: outcomes.iter().map(check).collect() }
    }

    #[test]
    fn one_failed_check_fails_the_report_and_is_shown_in_short() {
        let (pass, notice) =
            (HealthCheckOutcome::Pass, HealthCheckOutcome::Notice("old".to_owned()));
        let fail = HealthCheckOutcome::Fail("stale".to_owned());
        let rows = [
            (vec![], HealthReportFormat::Short, 200, "ok\n"),
            (vec![pass.clone(), notice.clone()], HealthReportFormat::Short, 200, "ok\n"),
            (
                vec![pass.clone()],
                HealthReportFormat::Verbose,
                200,
                "[+]x ok\nreadyz check passed\n",
            ),
            (
                vec![notice],
                HealthReportFormat::Verbose,
                200,
                "[+]x ok, but old\nreadyz check passed\n",
            ),
            (
                vec![pass, fail.clone()],
                HealthReportFormat::Short,
                503,
                "[+]x ok\n[-]x failed: stale\nreadyz check failed\n",
            ),
            (
                vec![fail],
                HealthReportFormat::Json,
                503,
                "{\"checks\":[{\"message\":\"stale\",\"name\":\"x\",\"verdict\":\"fail\"}],\"passes\":false}\n",
            ),
        ];
        for (outcomes, format, code, text) in rows {
            let (found_code, _, found) = report(&outcomes).show("readyz", format);
            assert_eq!((found_code, found.as_str()), (code, text), "{outcomes:?} {format:?}");
        }
    }
}
