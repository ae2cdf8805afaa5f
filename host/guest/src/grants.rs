//! Compares the grants that a plugin requests with those in its settings. Pure.

use tholepin_schema::manifest::{GrantScope, Grants, KubernetesGrant, RedisGrants};

/// Returns the requests that no grant covers, each as readable text; empty if all are covered.
pub(crate) fn missing(requested: &Grants, granted: &Grants) -> Vec<String> {
    let Grants { kubernetes, redis, probes, safety, pod_security, secrets } = requested;
    let mut missing: Vec<String> = kubernetes
        .iter()
        .flat_map(|request| missing_kubernetes(request, &granted.kubernetes))
        .collect();
    let RedisGrants { commands, verbs } = redis;
    let lists =
        [("command", commands, &granted.redis.commands), ("verb", verbs, &granted.redis.verbs)];
    for (what, request, granted) in lists {
        let uncovered = request.iter().filter(|name| !granted.contains(name));
        missing.extend(uncovered.map(|name| format!("the redis {what} `{name}`")));
    }
    let uncovered = probes.iter().filter(|port| !granted.probes.contains(port));
    missing.extend(uncovered.map(|port| format!("the probe of port {port}")));
    let uncovered =
        safety.named().filter(|path| !granted.safety.named().any(|other| other == *path));
    missing.extend(uncovered.map(|(field, path)| format!("the safety path `{field}: {path}`")));
    let uncovered = pod_security.iter().filter(|word| !granted.pod_security.contains(word));
    missing.extend(uncovered.map(|word| format!("`{word}` in podSecurity")));
    let uncovered = secrets.iter().filter(|secret| !granted.secrets.contains(secret));
    missing.extend(uncovered.map(|secret| format!("the Secret `{secret}` in secrets")));
    missing
}

/// Returns the verbs of one request that no grant covers. Several grants together may cover the verbs.
fn missing_kubernetes(request: &KubernetesGrant, granted: &[KubernetesGrant]) -> Vec<String> {
    let KubernetesGrant { name, verbs, scope, force } = request;
    let covers = |grant: &KubernetesGrant, verb: &String| {
        grant.name == *name
            && grant.verbs.contains(verb)
            && width(*scope) <= width(grant.scope)
            && (!force || grant.force)
    };
    let uncovered = verbs.iter().filter(|verb| !granted.iter().any(|grant| covers(grant, verb)));
    let with_force = if *force { " with force" } else { "" };
    uncovered
        .map(|verb| format!("`{verb}` on {name} (scope {}{with_force})", scope_name(*scope)))
        .collect()
}

/// Orders scopes by how much they cover. A scope unknown to this host is the widest, so that no known scope
/// covers a request for it.
const fn width(scope: GrantScope) -> u8 {
    match scope {
        GrantScope::Owned => 0,
        GrantScope::Namespace => 1,
        GrantScope::Cluster => 2,
        _ => u8::MAX,
    }
}

/// Returns the scope as it is written in YAML.
pub(crate) const fn scope_name(scope: GrantScope) -> &'static str {
    match scope {
        GrantScope::Owned => "owned",
        GrantScope::Namespace => "namespace",
        GrantScope::Cluster => "cluster",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_must_be_granted() {
        let config_map = |verbs: &[&str], scope: &str| json!({"kubernetes": [{"apiVersion": "v1", "kind": "ConfigMap", "verbs": verbs, "scope": scope}]});
        let rows = [
            (config_map(&["get"], "owned"), config_map(&["get", "apply"], "owned"), None),
            (config_map(&["get"], "owned"), config_map(&["get"], "cluster"), None),
            (
                config_map(&["get", "delete"], "owned"),
                config_map(&["get"], "owned"),
                Some("`delete` on v1/ConfigMap"),
            ),
            (
                config_map(&["get"], "cluster"),
                config_map(&["get"], "namespace"),
                Some("scope cluster"),
            ),
            (json!({"redis": {"verbs": ["meet"]}}), json!({}), Some("redis verb `meet`")),
            (json!({"probes": [80, 81]}), json!({"probes": [80]}), Some("probe of port 81")),
            (json!({"probes": [80]}), json!({"probes": [80]}), None),
            (
                json!({"safety": {"dataLoss": ".spec.loss"}}),
                json!({"safety": {"tailLoss": ".spec.loss"}}),
                Some("the safety path `dataLoss: .spec.loss`"),
            ),
            (
                json!({"safety": {"dataLoss": ".spec.other"}}),
                json!({"safety": {"dataLoss": ".spec.loss"}}),
                Some("the safety path `dataLoss: .spec.other`"),
            ),
            (
                json!({"safety": {"dataLoss": ".spec.loss"}}),
                json!({"safety": {"dataLoss": ".spec.loss", "tailLoss": ".spec.tail"}}),
                None,
            ),
            (
                json!({"podSecurity": ["hostPath", "privileged"]}),
                json!({"podSecurity": ["hostPath"]}),
                Some("`privileged` in podSecurity"),
            ),
            (json!({"secrets": ["a", "b"]}), json!({"secrets": ["a"]}), Some("the Secret `b`")),
            (
                json!({"podSecurity": ["nodeName"], "secrets": ["a"]}),
                json!({"podSecurity": ["nodeName"], "secrets": ["a"]}),
                None,
            ),
            (
                json!({"redis": {"commands": ["+info"]}}),
                json!({"redis": {"commands": ["+info"]}}),
                None,
            ),
        ];
        for (requested, granted, expected) in rows {
            let parse = |value: &serde_json::Value| serde_json::from_value(value.clone()).unwrap();
            let missing = missing(&parse(&requested), &parse(&granted)).join("; ");
            match expected {
                None => assert_eq!(missing, "", "{requested} by {granted}"),
                Some(expected_text) => assert!(missing.contains(expected_text), "{missing}"),
            }
        }
    }

    #[test]
    fn force_must_be_granted_itself() {
        let grants = |force: bool| Grants {
            kubernetes: vec![KubernetesGrant {
                name: serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service"}))
                    .unwrap(),
                verbs: vec!["apply".to_owned()],
                scope: GrantScope::Owned,
                force,
            }],
            ..Grants::default()
        };
        assert_eq!(missing(&grants(true), &grants(false)).len(), 1);
        assert_eq!(missing(&grants(false), &grants(true)).len(), 0);
    }
}
