//! The manifest: the document that `describe` returns.

use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    action::Verb, command::check_acl_rule, pod_permission::PodPermission, primitives::nearest,
};

/// A plugin's description of itself. It lists every grant that the plugin needs; it grants nothing itself.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// The plugin's name, a DNS label; must be the name of the `Plugin` object.
    pub name: String,
    /// The plugin's version, free text for people.
    pub version: String,
    /// The kinds whose objects the plugin reconciles; at least one.
    pub reconciles: Vec<ReconciledKind>,
    /// Whether the host keeps a deleted object until `reconcile`, called with `deleting`, returns `finished`.
    #[serde(default)]
    pub finalizer: bool,
    /// Further kinds whose changes trigger a reconcile.
    #[serde(default)]
    pub watches: Vec<WatchedKind>,
    /// The grants that the plugin needs.
    #[serde(default)]
    pub grants: Grants,
    /// JSON Schema of the plugin's parameters; if absent, the plugin has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Paths of the fields of a reconciled object (`.spec.auth.secretName`) that contain names of Secrets. A path
    /// begins with `.spec.` and continues into each item of a list. The Pods, the templates and the instances of
    /// the plugin may use only the Secrets that these fields name, and those of [`Grants::secrets`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_fields: Vec<String>,
}

impl Manifest {
    /// Returns the problems of `secretFields`, each with the way to fix it; empty if there are none.
    #[must_use]
    pub fn secret_field_faults(&self) -> Vec<String> {
        let is_path = |path: &str| {
            path.strip_prefix(".spec.").is_some_and(|rest| {
                rest.split('.').all(|name| !name.is_empty() && !name.contains(['[', ']', '\\']))
            })
        };
        let wrong = self.secret_fields.iter().filter(|path| !is_path(path));
        wrong
            .map(|path| {
                format!(
                    "`{path}` is not a path of `secretFields`: write names of fields below `.spec`, as in \
                     `.spec.auth.secretName`; a path continues into each item of a list by itself"
                )
            })
            .collect()
    }
}

/// A kind by its group, version and name.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KindName {
    /// `apps/v1`, or `v1` for the core group.
    pub api_version: String,
    /// `StatefulSet`.
    pub kind: String,
}

impl KindName {
    /// Returns the API group; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Returns the version without the group.
    #[must_use]
    pub fn version(&self) -> &str {
        self.api_version.split_once('/').map_or(self.api_version.as_str(), |(_, version)| version)
    }
}

impl core::fmt::Display for KindName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.api_version, self.kind)
    }
}

/// A kind that the plugin reconciles, with its definition if the plugin provides it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReconciledKind {
    /// The kind.
    #[serde(flatten)]
    pub name: KindName,
    /// The whole CustomResourceDefinition object, if the plugin provides the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crd: Option<Value>,
}

/// A kind whose changes trigger a reconcile, and how to find the object to reconcile.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WatchedKind {
    /// The kind.
    #[serde(flatten)]
    pub name: KindName,
    /// How an object of this kind maps to the object to reconcile.
    pub leads: WatchMapping,
}

/// How a watched object maps to the object to reconcile.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum WatchMapping {
    /// The watched object's chain of controller references ends at the object to reconcile.
    Owner,
    /// This label of the watched object contains the name of the object to reconcile, in the same namespace.
    Label(String),
    /// This field of the object to reconcile (`.spec.auth.secretName`) contains the watched object's name.
    ReferredBy(String),
    /// This field of the watched object contains the name of the object to reconcile, in the same namespace.
    Refers(String),
}

/// The permissions that a plugin needs, or that a `Plugin` object gives it. Both have the same shape so that
/// the host can compare them.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grants {
    /// Kubernetes kinds and the verbs allowed on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes: Vec<KubernetesGrant>,
    /// Redis commands and verbs of actions.
    #[serde(default, skip_serializing_if = "RedisGrants::is_empty")]
    pub redis: RedisGrants,
    /// Ports that may be probed on Pods whose chain of controllers ends at the reconciled object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<u16>,
    /// Where a reconciled object contains its safety policy.
    #[serde(default, skip_serializing_if = "SafetyPaths::is_empty")]
    pub safety: SafetyPaths,
    /// What Pods and Pod templates that the plugin writes may use: words of [`PodPermission`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_security: Vec<String>,
    /// Secrets that Pods, templates and instances may use although the reconciled object does not name them:
    /// `NAME` in the namespace of the reconciled object, or `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
}

/// The verbs of a Kubernetes grant.
pub const KUBERNETES_VERBS: &[&str] =
    &["apply", "apply-status", "delete", "get", "list", "merge-patch", "publish"];
/// The verbs of a Redis grant in addition to those of actions: `observe` reads the members, `lose-data` allows
/// actions that give up data, `stop-last-copy` allows stopping a member that may have the last copy of its
/// data. The last two do not replace the object's policy or a person's approval.
pub const OTHER_REDIS_VERBS: &[&str] = &["lose-data", "observe", "stop-last-copy"];

impl Grants {
    /// Returns the problems of these grants, each with the way to fix it; empty if there are none.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let Self { kubernetes, redis, probes: _, safety, pod_security, secrets } = self;
        let mut faults = Vec::new();
        let mut granted = BTreeSet::new();
        for KubernetesGrant { name, verbs, .. } in kubernetes {
            for verb in verbs {
                if let Some(fault) = unknown("verb", verb, KUBERNETES_VERBS.iter().copied()) {
                    faults.push(format!("{name}: {fault}"));
                } else if !granted.insert((name, verb)) {
                    faults.push(format!(
                        "{name}: `{verb}` is granted twice, and the two scopes can differ: keep one of the two \
                         grants"
                    ));
                }
            }
        }
        let verbs = || OTHER_REDIS_VERBS.iter().chain(Verb::NAMES).copied();
        faults.extend(redis.verbs.iter().filter_map(|verb| unknown("redis verb", verb, verbs())));
        faults.extend(
            redis.commands.iter().filter_map(|rule| Some(check_acl_rule(rule).err()?.to_string())),
        );
        faults.extend(safety.faults());
        let words = || PodPermission::ALL.iter().map(|permission| permission.as_str());
        let unknown_word = |word: &String| unknown("permission of podSecurity", word, words());
        faults.extend(pod_security.iter().filter_map(unknown_word));
        faults.extend(secrets.iter().filter_map(|secret| secret_fault(secret)));
        faults
    }
}

/// Returns the problem of a word that is not among the known ones.
fn unknown<'a>(
    what: &str,
    word: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Option<String> {
    if known.clone().any(|known| known == word) {
        return None;
    }
    Some(match nearest(word, known.clone()) {
        Some(meant) => format!("`{word}` is not a {what}; did you mean `{meant}`?"),
        None => {
            format!("`{word}` is not a {what}; use one of {}", known.collect::<Vec<_>>().join(", "))
        }
    })
}

/// Returns the problem of an entry of `secrets`.
fn secret_fault(entry: &str) -> Option<String> {
    let (namespace, name) = entry.split_once('/').unwrap_or(("any", entry));
    let is_name = !namespace.is_empty() && !name.is_empty() && !name.contains(['/', '*']);
    (!is_name)
        .then(|| format!("`{entry}` is not the name of a Secret: write NAME or NAMESPACE/NAME"))
}

/// Permission to use one Kubernetes kind.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesGrant {
    /// The kind.
    #[serde(flatten)]
    pub name: KindName,
    /// Verbs from [`KUBERNETES_VERBS`].
    pub verbs: Vec<String>,
    /// The objects of the kind that are covered.
    #[serde(default)]
    pub scope: GrantScope,
    /// Whether `apply` may take fields over from another field manager.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub force: bool,
}

/// The objects that a Kubernetes grant covers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum GrantScope {
    /// The reconciled object, and objects whose chain of controllers ends at it.
    #[default]
    Owned,
    /// Objects in the reconciled object's namespace.
    Namespace,
    /// All objects.
    Cluster,
}

/// Permission to use Redis.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisGrants {
    /// ACL rules in Redis' syntax, such as `+@read` or `+config|get`; they cannot allow more than the host's
    /// command table. `~app:*` or `%W~app:*` allows writing the keys that match; without such a pattern keys are
    /// written only with the verb `lose-data`, where the object's policy accepts the loss of data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// `observe`, `lose-data`, `stop-last-copy`, and the names of action verbs (`meet`, `failover`, …).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
}

impl RedisGrants {
    /// Returns true if nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.verbs.is_empty()
    }
}

/// Field paths (`.spec.failover.onPodDeath`) of an object's safety policy; the host reads these fields, and no
/// plugin may write them. Every path is below `.spec`, where people say what they want. Without a path the policy
/// is the safe one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SafetyPaths {
    /// Path of a field that is `acceptable` if all data may be lost to serve again; any other value means
    /// `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_loss: Option<String>,
    /// Path of a field that is `force` if writes that are not yet replicated may be lost when a primary's Pod
    /// dies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_loss: Option<String>,
}

impl SafetyPaths {
    /// Returns true if no path is named.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.data_loss.is_none() && self.tail_loss.is_none()
    }

    /// Returns the paths that are named, each with its field in a grant.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Self { data_loss, tail_loss } = self;
        [("dataLoss", data_loss), ("tailLoss", tail_loss)]
            .into_iter()
            .filter_map(|(field, path)| Some((field, path.as_deref()?)))
    }

    /// Returns a fault for each path that is not below `.spec`: a plugin writes other fields of its objects, and
    /// could allow itself a loss there.
    fn faults(&self) -> impl Iterator<Item = String> {
        let is_below_spec = |path: &str| {
            let below = path.strip_prefix(".spec.");
            below.is_some_and(|rest| rest.split('.').all(|step| !step.is_empty()))
        };
        self.named().filter(move |(_, path)| !is_below_spec(path)).map(|(field, path)| {
            format!(
                "safety.{field}: `{path}` is not a field below `.spec`, where the object's owner says what may be lost; \
                 name one, such as `.spec.{field}`"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{
        "name": "a", "version": "1",
        "reconciles": [{"apiVersion": "tests.tholepin.dev/v1", "kind": "Greeting"}],
        "watches": [{"apiVersion": "v1", "kind": "Secret", "leads": {"referredBy": ".spec.secret"}},
                    {"apiVersion": "v1", "kind": "ConfigMap", "leads": "owner"}],
        "grants": {"kubernetes": [{"apiVersion": "v1", "kind": "ConfigMap", "verbs": ["get"], "scope": "namespace"}],
                   "redis": {"verbs": ["observe"]}}
    }"#;

    #[test]
    fn a_manifest_is_read_and_written() {
        let manifest: Manifest = serde_json::from_str(WHOLE).unwrap();
        assert_eq!(manifest.watches[0].leads, WatchMapping::ReferredBy(".spec.secret".into()));
        assert_eq!(manifest.grants.kubernetes[0].scope, GrantScope::Namespace);
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }

    /// An unknown field is refused. Otherwise the writer would believe that it has an effect.
    #[test]
    fn an_unknown_field_is_refused_at_every_depth() {
        for (known, unknown) in [
            ("\"version\"", "\"versions\": 1, \"version\""),
            ("\"kind\": \"Greeting\"", "\"kind\": \"Greeting\", \"crds\": []"),
            ("\"leads\": \"owner\"", "\"leads\": \"owner\", \"lead\": 1"),
            ("\"scope\"", "\"scopes\": 1, \"scope\""),
            ("\"verbs\": [\"observe\"]", "\"verbs\": [], \"verb\": 1"),
        ] {
            let text = WHOLE.replacen(known, unknown, 1);
            assert_ne!(text, WHOLE, "{known}");
            let refused = serde_json::from_str::<Manifest>(&text).unwrap_err();
            assert!(alloc::format!("{refused}").contains("unknown field"), "{refused}");
        }
    }

    #[test]
    fn a_secret_field_is_below_the_spec() {
        let faulty = |path: &str| {
            let mut manifest: Manifest = serde_json::from_str(WHOLE).unwrap();
            manifest.secret_fields = [path.to_string()].into();
            manifest.secret_field_faults().join("; ")
        };
        assert_eq!(faulty(".spec.auth.secretName"), "");
        for path in
            ["", ".", ".spec", ".spec.", ".metadata.name", "spec.a", ".spec..a", ".spec.a[b=c]"]
        {
            assert!(faulty(path).contains("as in `.spec.auth.secretName`"), "{path}");
        }
    }

    #[test]
    fn each_verb_and_rule_of_a_grant_is_checked() {
        let config_map = |verbs: &str, scope: &str| {
            format!(
                r#"{{"apiVersion": "v1", "kind": "ConfigMap", "verbs": {verbs}, "scope": "{scope}"}}"#
            )
        };
        let kubernetes =
            |entries: &[String]| format!(r#"{{"kubernetes": [{}]}}"#, entries.join(","));
        let get = config_map(r#"["get"]"#, "owned");
        let rows = [
            (kubernetes(&[get.clone(), config_map(r#"["list"]"#, "cluster")]), None),
            (kubernetes(&[config_map(r#"["gett"]"#, "owned")]), Some("did you mean `get`?")),
            (
                kubernetes(&[config_map(r#"["watch"]"#, "owned")]),
                Some("use one of apply, apply-status"),
            ),
            (
                kubernetes(&[get, config_map(r#"["get"]"#, "cluster")]),
                Some("`get` is granted twice"),
            ),
            (r#"{"redis": {"verbs": ["observe", "forget", "stop-last-copy"]}}"#.into(), None),
            (r#"{"redis": {"verbs": ["failovr"]}}"#.into(), Some("did you mean `failover`?")),
            (r#"{"redis": {"commands": ["+frobnicate"]}}"#.into(), Some("frobnicate")),
            (r#"{"redis": {"commands": ["+set", "~app:*", "%w~app:[a-z]"]}}"#.into(), None),
            (r#"{"redis": {"commands": ["%R~app:*"]}}"#.into(), Some("reads need no pattern")),
            (r#"{"redis": {"commands": ["~"]}}"#.into(), Some("`~` must have 1 to 256 bytes")),
            (r#"{"safety": {"dataLoss": ".spec.a.b", "tailLoss": ".spec.c"}}"#.into(), None),
            (
                r#"{"safety": {"dataLoss": ".status.lossy"}}"#.into(),
                Some("safety.dataLoss: `.status.lossy` is not a field below `.spec`"),
            ),
            (
                r#"{"safety": {"tailLoss": ".metadata.annotations.lossy"}}"#.into(),
                Some("name one, such as `.spec.tailLoss`"),
            ),
            (r#"{"safety": {"dataLoss": ".spec"}}"#.into(), Some("not a field below")),
            (r#"{"safety": {"dataLoss": ".spec."}}"#.into(), Some("not a field below")),
            (r#"{"safety": {"dataLoss": ".spec..a"}}"#.into(), Some("not a field below")),
            (r#"{"safety": {"dataLoss": ".specs.a"}}"#.into(), Some("not a field below")),
            (r#"{"podSecurity": ["hostPath", "serviceAccount"]}"#.into(), None),
            (r#"{"podSecurity": ["hostPaths"]}"#.into(), Some("did you mean `hostPath`?")),
            (r#"{"podSecurity": ["all"]}"#.into(), Some("use one of capabilities, hostIPC")),
            (r#"{"secrets": ["a", "n/a"]}"#.into(), None),
            (r#"{"secrets": ["*"]}"#.into(), Some("write NAME or NAMESPACE/NAME")),
        ];
        for (text, expected) in rows {
            let grants: Grants = serde_json::from_str(&text).unwrap();
            let faults = grants.faults().join("; ");
            match expected {
                None => assert_eq!(faults, "", "{text}"),
                Some(words) => assert!(faults.contains(words), "{text}: {faults}"),
            }
        }
    }
}
