//! Decides which runtime settings (those that can be changed while a server runs) servers read at their next
//! start, from the second ConfigMap of `workload::config`.
//!
//! Invariants:
//! - A value enters the file only after all members that answer have it, so that no server starts with a value
//!   that a running one refused. There are two exceptions. Before any server has answered, all values enter
//!   directly: there is nothing else to start with. A setting that Tholepin derives from the spec
//!   (`of_failover`) enters directly if the file has no value of it: a server without the line would use the
//!   default of Redis, a node timeout of 15 s.
//! - Missing information changes nothing: a member that does not answer does not prove that it accepted a
//!   value.

use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
};

use tholepin_redis_types::{
    redis_cluster::{RedisClusterSpec, RedisClusterStatus},
    setting,
};
use tholepin_schema::{
    command::{RUNTIME_SETTINGS, RedisSettingAllowedValues},
    snapshot::{Member, MemberFacts, Snapshot},
};

pub(crate) const NODE_TIMEOUT: &str = "cluster-node-timeout";
pub(crate) const FULL_COVERAGE: &str = "cluster-require-full-coverage";

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisConfigFileSettings {
    /// The values by name, in the form of `CONFIG GET`.
    pub values: BTreeMap<String, String>,
    /// Whether a server has ever answered. Until then, all values enter the file directly.
    pub has_server_answered: bool,
}

/// Returns true if a setting of the spec is changed at run time, which only the verb `configure` does.
pub(crate) fn is_runtime_setting(name: &str) -> bool {
    RUNTIME_SETTINGS.iter().any(|setting| {
        setting.name == name && !matches!(setting.values, RedisSettingAllowedValues::OwnAddress)
    })
}

/// Returns true if a line of the file could have been written by this plugin.
pub(crate) fn is_own_line(name: &str, value: &str) -> bool {
    let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_runtime_setting(name) && plain && !value.is_empty()
}

/// Returns the settings of the spec that are changed at run time, in the form of `CONFIG GET`.
pub(crate) fn of_spec(spec: &RedisClusterSpec) -> BTreeMap<String, String> {
    let runtime = spec.settings.iter().filter(|(name, _)| is_runtime_setting(name));
    runtime
        .filter_map(|(name, value)| Some((name.clone(), setting::as_shown(name, value.as_str())?)))
        .collect()
}

/// Returns the settings that Tholepin derives from the spec and changes at run time. Every server accepts
/// them.
pub(crate) fn of_failover(spec: &RedisClusterSpec) -> BTreeMap<String, String> {
    let coverage = if spec.failover.require_full_coverage { "yes" } else { "no" };
    BTreeMap::from([
        (NODE_TIMEOUT.to_string(), spec.failover.node_timeout_ms.to_string()),
        (FULL_COVERAGE.to_string(), coverage.to_string()),
    ])
}

/// Returns true if the members' reports alone determine the content of the file, so that it need not be read
/// first.
#[must_use]
pub fn is_all_accepted(spec: &RedisClusterSpec, snapshot: &Snapshot) -> bool {
    let mut desired = of_spec(spec);
    desired.append(&mut of_failover(spec));
    desired.iter().all(|(name, value)| is_accepted(snapshot, name, value))
}

/// Returns the desired content of the file. `before` is its present content, `None` if it does not exist.
/// `snapshot` is `None` if the members could not be observed.
#[must_use]
pub fn runtime_settings(
    spec: &RedisClusterSpec,
    snapshot: Option<&Snapshot>,
    previous: &RedisClusterStatus,
    before: Option<&RedisConfigFileSettings>,
) -> RedisConfigFileSettings {
    let members = snapshot.map(|snapshot| snapshot.members.as_slice()).unwrap_or_default();
    let mut known = previous.shards.iter().flat_map(|shard| &shard.members);
    let has_answered = before.is_some_and(|before| before.has_server_answered)
        || members.iter().any(|member| member.node().is_some())
        || known.any(|member| member.node.is_some());
    let (own, mut desired) = (of_failover(spec), of_spec(spec));
    if !has_answered {
        desired.extend(own);
        return RedisConfigFileSettings { values: desired, has_server_answered: false };
    }
    let kept = |name: &str| before.and_then(|before| before.values.get(name)).cloned();
    let accepted = |name: &str, value: &str| {
        snapshot.is_some_and(|snapshot| is_accepted(snapshot, name, value))
    };
    let of_spec = desired.into_iter().filter_map(|(name, value)| {
        let value = if accepted(&name, &value) { Some(value) } else { kept(&name) };
        value.map(|value| (name, value))
    });
    let own = own.into_iter().map(|(name, value)| {
        let value = if accepted(&name, &value) { value } else { kept(&name).unwrap_or(value) };
        (name, value)
    });
    RedisConfigFileSettings { values: of_spec.chain(own).collect(), has_server_answered: true }
}

/// Returns true if at least one member answers and all that answer have the value.
fn is_accepted(snapshot: &Snapshot, name: &str, value: &str) -> bool {
    let mut answering = snapshot.members.iter().filter_map(Member::facts).peekable();
    let shows = |facts: &MemberFacts| facts.settings.get(name).is_some_and(|shown| shown == value);
    answering.peek().is_some() && answering.all(shows)
}

#[cfg(test)]
mod tests;
