//! Which settings enter the file of the settings that servers have accepted.

use alloc::{vec, vec::Vec};

use serde_json::{Value, json};
use tholepin_redis_types::setting::{OFFERED, RedisSettingType};

use super::*;
use crate::{
    test_cluster::{CLUSTER, TestClusterModel},
    workload::{OwnerRedisCluster, read_runtime_config, runtime_config, title},
};

const OWNER: OwnerRedisCluster<'_> =
    OwnerRedisCluster { name: CLUSTER, namespace: "default", uid: "u-1" };

fn spec(settings: Value) -> RedisClusterSpec {
    serde_json::from_value(json!({"shards": 1, "replicasPerShard": 1, "settings": settings}))
        .unwrap()
}

/// The settings that a member reports; `None` if it does not answer.
type ShownSettings<'a> = Option<&'a [(&'a str, &'a str)]>;

/// Returns a snapshot of two members with these settings in addition to the usual ones.
fn snapshot(shown: [ShownSettings<'_>; 2]) -> Snapshot {
    let mut snapshot =
        TestClusterModel::formed(crate::test_cluster::spec(1, 1)).observed().snapshot;
    for (member, shown) in snapshot.members.iter_mut().zip(shown) {
        let tholepin_schema::snapshot::MemberAnswer::Answered(facts) = &mut member.answer else {
            panic!("{member:?}")
        };
        facts.settings.extend([
            (NODE_TIMEOUT.to_string(), "5000".to_string()),
            (FULL_COVERAGE.to_string(), "yes".to_string()),
        ]);
        match shown {
            Some(settings) => facts
                .settings
                .extend(settings.iter().map(|(name, value)| ((*name).into(), (*value).into()))),
            None => {
                member.answer = serde_json::from_value(
                    json!({"unreachable": {"reason": "timeout", "message": "m"}}),
                )
                .unwrap();
            }
        }
    }
    snapshot
}

/// Returns the value of one setting in the new file, if the old file was `before`.
fn value_in_file(settings: Value, snapshot: Option<Snapshot>, before: &str) -> Option<String> {
    let values = before.split_once(' ').map(|(name, value)| (name.into(), value.into()));
    let before =
        RedisConfigFileSettings { values: values.into_iter().collect(), has_server_answered: true };
    let spec = spec(settings);
    let none = RedisClusterStatus::default();
    let settings = runtime_settings(&spec, snapshot.as_ref(), &none, Some(&before));
    assert!(settings.has_server_answered);
    settings.values.get("slowlog-max-len").cloned()
}

#[test]
fn a_value_enters_only_after_all_answering_members_have_accepted_it() {
    let desired = || json!({"slowlog-max-len": 256});
    let new: ShownSettings<'_> = Some(&[("slowlog-max-len", "256")]);
    let old: ShownSettings<'_> = Some(&[("slowlog-max-len", "128")]);
    let before = "slowlog-max-len 64";
    let cases = [
        (Some([new, new]), Some("256"), "both have it"),
        (Some([new, old]), Some("64"), "one has not"),
        (Some([new, None]), Some("256"), "a silent member gets it when it answers"),
        (Some([None, None]), Some("64"), "no member answers"),
        (Some([new, Some(&[])]), Some("64"), "one member does not report it"),
        (None, Some("64"), "the members were not observed"),
    ];
    for (shown, expected, why) in cases {
        let value = value_in_file(desired(), shown.map(snapshot), before);
        assert_eq!(value.as_deref(), expected, "{why}");
    }
    assert_eq!(
        value_in_file(desired(), Some(snapshot([old, old])), ""),
        None,
        "it never was in the file"
    );
    assert_eq!(
        value_in_file(json!({}), Some(snapshot([new, new])), before),
        None,
        "the spec does not have it"
    );
}

#[test]
fn memory_is_compared_in_the_servers_form() {
    let backlog = "repl-backlog-size";
    let spec = spec(json!({backlog: "1mb"}));
    let taken: ShownSettings<'_> = Some(&[(backlog, "1048576")]);
    let snapshot = snapshot([taken, taken]);
    assert!(is_all_accepted(&spec, &snapshot));
    let other: ShownSettings<'_> = Some(&[(backlog, "2097152")]);
    assert!(!is_all_accepted(&spec, &self::snapshot([taken, other])));
    let settings = runtime_settings(&spec, Some(&snapshot), &RedisClusterStatus::default(), None);
    assert_eq!(settings.values[backlog], "1048576");
}

#[test]
fn at_creation_the_spec_is_written_immediately_and_can_be_corrected() {
    let none = RedisClusterStatus::default();
    let first = runtime_settings(&spec(json!({"activedefrag": "yes"})), None, &none, None);
    assert_eq!((first.values["activedefrag"].as_str(), first.has_server_answered), ("yes", false));
    assert_eq!(first.values[NODE_TIMEOUT], "5000");
    // No server has started with it; the spec is corrected.
    let silent = snapshot([None, None]);
    let corrected = runtime_settings(&spec(json!({})), Some(&silent), &none, Some(&first));
    assert!(!corrected.values.contains_key("activedefrag") && !corrected.has_server_answered);
}

#[test]
fn a_server_that_answered_once_ends_the_creation() {
    let desired = spec(json!({"activedefrag": "yes"}));
    let silent = snapshot([None, None]);
    let known: RedisClusterStatus = serde_json::from_value(json!({"shards": [{
        "name": "s", "members": [{"pod": "p", "node": "a", "role": "silent"}]}]}))
    .unwrap();
    let none = RedisClusterStatus::default();
    let file = RedisConfigFileSettings { values: BTreeMap::new(), has_server_answered: true };
    for (previous, before) in [(&known, None), (&none, Some(&file))] {
        let settings = runtime_settings(&desired, Some(&silent), previous, before);
        assert!(settings.has_server_answered && !settings.values.contains_key("activedefrag"));
        assert_eq!(settings.values[NODE_TIMEOUT], "5000", "a file without it would mean 15 s");
    }
}

#[test]
fn the_file_is_read_back_as_it_was_written() {
    let values = [("slowlog-log-slower-than", "-1"), (NODE_TIMEOUT, "5000")];
    let values = values.map(|(name, value)| (name.into(), value.into())).into();
    let settings = RedisConfigFileSettings { values, has_server_answered: true };
    let mut object = runtime_config(OWNER, &settings);
    assert_eq!(title(&object), "ConfigMap demo-live");
    assert_eq!(read_runtime_config(&object), settings);
    // Text that a person writes into it does not become a line of the server's file.
    object["data"]["live.conf"] =
        "requirepass x\nslowlog-max-len a b\ncluster-announce-ip 1\n".into();
    object["metadata"]["annotations"] = Value::Null;
    assert_eq!(read_runtime_config(&object), RedisConfigFileSettings::default());
    assert_eq!(read_runtime_config(&json!({})), RedisConfigFileSettings::default());
}

#[test]
fn every_live_setting_can_be_set_in_its_whole_range() {
    for offered in OFFERED.iter().filter(|offered| is_runtime_setting(offered.name)) {
        let ends = match offered.kind {
            RedisSettingType::Integer { min, max } => vec![min.to_string(), max.to_string()],
            RedisSettingType::Memory { min, max } => vec![min.to_string(), max.to_string()],
            RedisSettingType::YesNo => vec!["yes".to_string(), "no".to_string()],
            RedisSettingType::OneOf(_)
            | RedisSettingType::BufferLimits
            | RedisSettingType::EventLetters => Vec::new(),
        };
        assert!(!ends.is_empty(), "{} has no form that can be compared", offered.name);
        for value in ends {
            let settings = BTreeMap::from([(offered.name.to_string(), value.clone())]);
            let checked = tholepin_schema::command::check_settings(&settings, None);
            assert_eq!(checked, Ok(()), "{} {value}", offered.name);
            assert!(is_own_line(offered.name, &value), "{} {value}", offered.name);
        }
    }
}
