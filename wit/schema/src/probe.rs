//! Asking a Pod's port whether somebody answers: what is asked, and what came of it.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// The longest probe, in milliseconds.
pub const PROBE_MS_MAX: u32 = 2_000;

/// The most bytes of a body that are handed over.
pub const PROBE_BODY_BYTES_MAX: usize = 16 * 1024;

/// What to ask of a Pod's port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodProbe {
    /// The Pod, by its name, in the namespace of the object reconciled.
    pub pod: String,
    /// The port; a grant must name it.
    pub port: u16,
    /// The path of an HTTP GET, with its query; only connects if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub get: Option<String>,
    /// How long it may take, 1 to 2000 ms.
    #[serde(default = "deadline_ms_default")]
    pub deadline_ms: u32,
}

const fn deadline_ms_default() -> u32 {
    1_000
}

impl PodProbe {
    /// Connects to a port, and no more.
    #[must_use]
    pub fn connect(pod: &str, port: u16) -> Self {
        Self { pod: pod.into(), port, get: None, deadline_ms: deadline_ms_default() }
    }

    /// Asks for a path by HTTP.
    #[must_use]
    pub fn get(pod: &str, port: u16, path: &str) -> Self {
        Self { get: Some(path.into()), ..Self::connect(pod, port) }
    }
}

/// What came of a probe. That nobody answers is an outcome and no error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ProbeOutcome {
    /// Somebody accepted the connection, and no more was asked.
    #[serde(rename_all = "camelCase")]
    Connected {
        /// How long it took.
        took_ms: u64,
    },
    /// It answered the GET.
    #[serde(rename_all = "camelCase")]
    Answered {
        /// The HTTP status. A redirection is told and not followed.
        status: u16,
        /// The body; what is no UTF-8 is replaced.
        body: String,
        /// Whether there was more than is handed over.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        cut: bool,
        /// How long it took.
        took_ms: u64,
    },
    /// Nobody listens there.
    Refused,
    /// No answer in time, or the Pod has no address yet.
    #[serde(rename_all = "camelCase")]
    Silent {
        /// What was waited for, for people.
        why: String,
    },
    /// Somebody answers, and it is no HTTP, or the connection broke.
    Failed {
        /// Why, for people.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_probe_round_trips_and_a_misspelt_field_is_refused() {
        let text = r#"{"pod":"a-0","port":22123,"get":"/stats"}"#;
        let probe: PodProbe = serde_json::from_str(text).unwrap();
        assert_eq!(probe, PodProbe::get("a-0", 22123, "/stats"));
        let written = serde_json::to_string(&probe).unwrap();
        assert_eq!(serde_json::from_str::<PodProbe>(&written).unwrap(), probe);
        let misspelt = text.replace("\"get\"", "\"path\"");
        let error = serde_json::from_str::<PodProbe>(&misspelt).unwrap_err();
        assert!(error.to_string().contains("unknown field `path`"), "{error}");
    }

    #[test]
    fn outcomes_are_written_as_documented() {
        let rows = [
            (ProbeOutcome::Connected { took_ms: 1 }, r#"{"connected":{"tookMs":1}}"#),
            (ProbeOutcome::Refused, r#""refused""#),
            (
                ProbeOutcome::Answered { status: 200, body: "ok".into(), cut: false, took_ms: 2 },
                r#"{"answered":{"status":200,"body":"ok","tookMs":2}}"#,
            ),
        ];
        for (outcome, text) in rows {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), text);
            assert_eq!(serde_json::from_str::<ProbeOutcome>(text).unwrap(), outcome);
        }
    }
}
