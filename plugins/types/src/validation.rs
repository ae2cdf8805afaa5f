//! What is wrong with a spec beyond what its definition can say.

use alloc::{format, string::String, vec::Vec};

use crate::redis_cluster::RedisClusterSpec;
use crate::setting;

/// One thing that is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, such as `.spec.settings.maxmemory`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Everything that is wrong with a spec, in order of its fields.
#[must_use]
pub fn faults(spec: &RedisClusterSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    if spec.image.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        let message = "an image has no white space: use a reference such as `redis:7`".into();
        faults.push(Fault { field: ".spec.image".into(), message });
    }
    for (name, value) in &spec.settings {
        if let Err(error) = setting::check(name, value.as_str()) {
            let message = format!("`{name}` {error}");
            faults.push(Fault { field: format!(".spec.settings.{name}"), message });
        }
    }
    faults.extend(too_few_replicas(spec));
    faults
}

/// `min-replicas-to-write` beyond what there is refuses every write for ever.
fn too_few_replicas(spec: &RedisClusterSpec) -> Option<Fault> {
    const NAME: &str = "min-replicas-to-write";
    let asked: u64 = spec.settings.get(NAME)?.as_str().parse().ok()?;
    let available = u64::from(spec.replicas_per_shard);
    (available < asked).then(|| Fault {
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
    fn each_fault_names_its_field() {
        let faults = faults(&spec(serde_json::json!({
            "image": "redis 7",
            "replicasPerShard": 1,
            "settings": {"port": 1, "maxmemory": "1gb", "min-replicas-to-write": 2},
        })));
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        let expected =
            [".spec.image", ".spec.settings.port", ".spec.settings.min-replicas-to-write"];
        assert_eq!(fields, expected);
    }
}
