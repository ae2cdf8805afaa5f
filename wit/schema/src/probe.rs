//! Probes of a Pod's port: the request and its outcome.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::open_enum::open_enum;

/// The longest deadline of a probe, in milliseconds.
pub const PROBE_MS_MAX: u32 = 2_000;

/// The most bytes of a response body that are returned.
pub const PROBE_BODY_BYTES_MAX: usize = 16 * 1024;

/// A probe of one port of a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodPortProbe {
    /// The deadline in milliseconds, 1 to 2000; 1000 if absent.
    #[serde(default = "deadline_ms_default")]
    pub deadline_ms: u32,
    /// The path and query of an HTTP GET; if absent, the probe only connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub get: Option<String>,
    /// The name of the Pod, in the namespace of the object reconciled.
    pub pod: String,
    /// The port; a grant must name it.
    pub port: u16,
}

const fn deadline_ms_default() -> u32 {
    1_000
}

impl PodPortProbe {
    /// Returns a probe that only connects.
    #[must_use]
    pub fn connect(pod: &str, port: u16) -> Self {
        Self { pod: pod.into(), port, get: None, deadline_ms: deadline_ms_default() }
    }

    /// Returns a probe that sends an HTTP GET for a path.
    #[must_use]
    pub fn get(pod: &str, port: u16, path: &str) -> Self {
        Self { get: Some(path.into()), ..Self::connect(pod, port) }
    }
}

/// The outcome of a probe. That nothing answers is an outcome, not an error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
#[non_exhaustive]
pub enum NetworkProbeOutcome {
    /// The connection was accepted; the probe asked for nothing else.
    #[serde(rename_all = "camelCase")]
    Connected {
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// The GET was answered.
    #[serde(rename_all = "camelCase")]
    Answered {
        /// The HTTP status. A redirect is reported, not followed.
        status: u16,
        /// The body; bytes that are not UTF-8 are replaced.
        body: String,
        /// Whether the body was longer than [`PROBE_BODY_BYTES_MAX`] and was cut.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        cut: bool,
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// The connection was refused: no process listens on the port.
    Refused,
    /// No answer within the deadline, or the Pod has no address yet.
    #[serde(rename_all = "camelCase")]
    Silent {
        /// What the probe waited for, for people.
        why: String,
    },
    /// The answer is not HTTP, or the connection broke.
    Failed {
        /// The reason, for people.
        why: String,
    },
    /// A case that this version does not name.
    Other,
}

open_enum!(NetworkProbeOutcome: "connected", "answered", "refused", "silent", "other");

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_probe_round_trips_and_a_misspelt_field_is_refused() {
        let text = r#"{"pod":"a-0","port":22123,"get":"/stats"}"#;
        let probe: PodPortProbe = serde_json::from_str(text).unwrap();
        assert_eq!(probe, PodPortProbe::get("a-0", 22123, "/stats"));
        let written = serde_json::to_string(&probe).unwrap();
        assert_eq!(serde_json::from_str::<PodPortProbe>(&written).unwrap(), probe);
        let misspelt = text.replace("\"get\"", "\"path\"");
        let error = serde_json::from_str::<PodPortProbe>(&misspelt).unwrap_err();
        assert!(error.to_string().contains("unknown field `path`"), "{error}");
    }

    #[test]
    fn outcomes_are_written_as_documented() {
        let rows = [
            (NetworkProbeOutcome::Connected { took_ms: 1 }, r#"{"connected":{"tookMs":1}}"#),
            (NetworkProbeOutcome::Refused, r#""refused""#),
            (
                NetworkProbeOutcome::Answered {
                    status: 200,
                    body: "ok".into(),
                    cut: false,
                    took_ms: 2,
                },
                r#"{"answered":{"status":200,"body":"ok","tookMs":2}}"#,
            ),
        ];
        for (outcome, text) in rows {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), text);
            assert_eq!(serde_json::from_str::<NetworkProbeOutcome>(text).unwrap(), outcome);
        }
    }
}
