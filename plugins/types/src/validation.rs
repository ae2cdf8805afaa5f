//! Checks of a spec that its definition cannot express.

use alloc::{format, string::String, vec::Vec};

use crate::redis_cluster::RedisClusterSpec;
use crate::setting;

/// A Kubernetes quantity, such as `250m`, `1.5Gi` or `2e9`, that is not negative. Source:
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.
pub const QUANTITY: &str =
    r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$";

/// One problem in a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecFault {
    /// The field, such as `.spec.settings.maxmemory`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Returns all problems of a spec, in order of its fields.
#[must_use]
pub fn faults(spec: &RedisClusterSpec) -> Vec<SpecFault> {
    let mut faults = Vec::new();
    if spec.image.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        let message =
            "an image must not contain white space: use a reference such as `redis:7`".into();
        faults.push(SpecFault { field: ".spec.image".into(), message });
    }
    let resources = &spec.resources;
    for (part, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, value) in quantities.iter().filter(|(_, value)| !is_quantity(value.as_str())) {
            let field = format!(".spec.resources.{part}.{name}");
            let message =
                format!("`{}` is not a quantity: use one such as `500m` or `2Gi`", value.as_str());
            faults.push(SpecFault { field, message });
        }
    }
    for (name, value) in &spec.settings {
        if let Err(error) = setting::check(name, value.as_str()) {
            let message = format!("`{name}` {error}");
            faults.push(SpecFault { field: format!(".spec.settings.{name}"), message });
        }
    }
    faults.extend(too_few_replicas(spec));
    faults
}

/// Returns true if a text matches [`QUANTITY`].
fn is_quantity(text: &str) -> bool {
    let number = text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let (digits, suffix) = text.split_at(text.len() - number.len());
    let is_number =
        digits.matches('.').count() <= 1 && digits.bytes().any(|byte| byte.is_ascii_digit());
    let exponent = || {
        let exponent = suffix.strip_prefix(['e', 'E'])?;
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        Some(!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_suffix = match suffix.as_bytes() {
        [] => true,
        [letter] => b"numkMGTPE".contains(letter),
        [letter, b'i'] => b"KMGTPE".contains(letter),
        _ => false,
    };
    is_number && (is_suffix || exponent().unwrap_or(false))
}

/// Returns a problem if `min-replicas-to-write` exceeds the number of replicas: every write would be refused
/// for ever.
fn too_few_replicas(spec: &RedisClusterSpec) -> Option<SpecFault> {
    const NAME: &str = "min-replicas-to-write";
    let asked: u64 = spec.settings.get(NAME)?.as_str().parse().ok()?;
    let available = u64::from(spec.replicas_per_shard);
    (available < asked).then(|| SpecFault {
        field: format!(".spec.settings.{NAME}"),
        message: format!(
            "`{NAME}` asks for {asked} replicas but `.spec.replicasPerShard` is {available}: every \
             write would be refused"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> RedisClusterSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn an_empty_spec_is_valid() {
        assert_eq!(faults(&spec(serde_json::json!({}))), []);
    }

    #[test]
    fn only_quantities_are_accepted() {
        for good in ["1", "0", "500m", "1.5Gi", ".5", "2.", "2e9", "1E+3", "12k", "3Ei", "5E"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "lots", "-1", "1 Gi", "1gb", "1GB", "1.2.3", "Gi", "1e", "1Ki2", ".", "٣"]
        {
            assert!(!is_quantity(bad), "{bad}");
        }
    }

    #[test]
    fn each_fault_names_its_field() {
        let faults = faults(&spec(serde_json::json!({
            "image": "redis 7",
            "replicasPerShard": 1,
            "resources": {"requests": {"memory": "lots"}, "limits": {"memory": "1Gi", "cpu": 2}},
            "settings": {"port": 1, "maxmemory": "1gb", "min-replicas-to-write": 2},
        })));
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        let expected = [
            ".spec.image",
            ".spec.resources.requests.memory",
            ".spec.settings.port",
            ".spec.settings.min-replicas-to-write",
        ];
        assert_eq!(fields, expected);
    }
}
