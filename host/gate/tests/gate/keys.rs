//! Writes of keys by commands: by granted patterns, or as a loss of data.

use serde_json::{Value, json};
use tholepin_core::{Answer, CallError, Pipeline, RedisCall, WriteMode};
use tholepin_schema::manifest::{GrantScope, Grants, RedisGrants, SafetyPaths};

use crate::{
    GateFixture,
    fixture::{object, pod},
    grants, instance,
};

/// Sends a command to a member of an object with this policy, under these grants.
async fn send(line: &str, rules: &[&str], verbs: &[&str], data_loss: Value) -> Answer {
    let texts = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let redis = RedisGrants { commands: texts(rules), verbs: texts(verbs) };
    let safety = SafetyPaths { data_loss: Some(".spec.dataLoss".into()), tail_loss: None };
    let granted = Grants { redis, safety, ..grants(GrantScope::Owned) };
    let mut bench = GateFixture::new(granted, WriteMode::Live);
    bench.world.put(pod("p-0"));
    let mut thing = object("tests.tholepin.dev/v1", "Thing", "me", None);
    thing["spec"] = json!({"secret": "mine", "dataLoss": data_loss});
    bench.scope.object = thing.into();
    bench.context = bench.gate.open(bench.scope.clone());
    let pipeline = Pipeline {
        instance: instance(),
        pod: "p-0".into(),
        commands: vec![line.split(' ').map(|word| word.as_bytes().to_vec()).collect()],
        deadline_ms: 100,
    };
    let fan_out = RedisCall::FanOut { pipelines: vec![pipeline.clone()] };
    let one = bench.redis(RedisCall::Pipeline(pipeline)).await;
    let refused = one.as_ref().err().cloned();
    assert_eq!(bench.redis(fan_out).await.err(), refused, "{line}");
    let sent = bench.writes().iter().any(|line| line.starts_with("pipeline"));
    assert_eq!(sent, refused.is_none(), "{line}");
    one
}

#[tokio::test]
async fn a_key_is_written_only_under_a_pattern_that_matches_it() {
    let rules = ["+@all", "~app:*", "%W~log:?"];
    for line in ["SET app:1 x", "MSET app:1 x log:1 y", "GET other", "SLOWLOG RESET"] {
        assert!(send(line, &rules, &[], json!("never")).await.is_ok(), "{line}");
    }
    for line in ["SET other x", "MSET app:1 x other y", "SORT app:1 STORE other"] {
        // A pattern is the whole grant: the policy does not widen it.
        let denied = send(line, &rules, &["lose-data"], json!("acceptable")).await;
        let Err(CallError::Denied(text)) = denied else { panic!("{line}: {denied:?}") };
        assert!(
            text.ends_with("the Plugin's spec.grants.redis.commands needs one such as `~other`"),
            "{line}: {text}"
        );
    }
}

#[tokio::test]
async fn without_a_pattern_a_write_of_keys_counts_as_a_loss_of_data() {
    let rules = ["+@all"];
    let lossy = json!("acceptable");
    let denied = send("DEL user:1", &rules, &["observe"], lossy.clone()).await;
    let Err(CallError::Denied(text)) = denied else { panic!("{denied:?}") };
    for part in ["needs one such as `~user:1`", "spec.grants.redis.verbs needs `lose-data`"] {
        assert!(text.contains(part), "{text}");
    }
    for policy in [json!("never"), Value::Null] {
        let refused = send("DEL user:1", &rules, &["lose-data"], policy).await;
        let Err(CallError::Refused(text)) = refused else { panic!("{refused:?}") };
        assert!(text.starts_with("data-loss: the policy of the object"), "{text}");
    }
    assert!(send("DEL user:1", &rules, &["lose-data"], lossy).await.is_ok());
    assert!(send("GET user:1", &rules, &[], Value::Null).await.is_ok());
}
