//! Ages and durations in the format of the real server: `5m3s`, `2d`, `<unknown>`.
//!
//! Source: k8s.io/apimachinery `pkg/util/duration/duration.go`.

use jiff::Timestamp;
use serde_json::Value;

/// Returns the age of a time (an RFC 3339 string); `<unknown>` if there is none.
pub fn age_since(moment: Option<&Value>, now: Timestamp) -> String {
    match moment.and_then(Value::as_str).map(str::parse::<Timestamp>) {
        None => "<unknown>".to_owned(),
        Some(Err(_)) => "<invalid>".to_owned(),
        Some(Ok(moment)) => human_duration(now.as_second() - moment.as_second()),
    }
}

/// Formats a duration of whole seconds with at most two units.
///
/// One second in the future is `0s`, because clocks differ; more is `<invalid>`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (303, "5m3s"),
            (600, "10m"),
            (179 * 60, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 120, "3h2m"),
            (8 * 3600 + 120, "8h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (9 * 86_400, "9d"),
            (729 * 86_400, "729d"),
            (731 * 86_400, "2y1d"),
            (9 * 365 * 86_400, "9y"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human_duration(seconds), expected, "{seconds} s");
        }
    }

    #[test]
    fn a_missing_moment_is_unknown() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        assert_eq!(age_since(None, now), "<unknown>");
        assert_eq!(age_since(Some(&Value::Null), now), "<unknown>");
        assert_eq!(age_since(Some(&Value::from("x")), now), "<invalid>");
        assert_eq!(age_since(Some(&Value::from("2026-01-01T00:00:03Z")), now), "7s");
    }
}
