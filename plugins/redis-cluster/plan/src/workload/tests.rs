//! What the objects contain, and what they must not contain.

use super::*;
use alloc::{format, string::ToString};
use tholepin_redis_types::redis_cluster::RedisClusterSpec;

const OWNER: OwnerRedisCluster<'_> =
    OwnerRedisCluster { name: "demo", namespace: "default", uid: "u-1" };

fn spec(json: Value) -> RedisClusterSpec {
    serde_json::from_value(json).unwrap()
}

fn find(objects: &[Value], title_wanted: &str) -> Value {
    objects.iter().find(|object| title(object) == title_wanted).cloned().unwrap()
}

#[test]
fn a_cluster_has_one_stateful_set_per_shard_and_all_objects_have_the_owner() {
    let objects = objects(OWNER, &spec(json!({"shards": 3, "replicasPerShard": 2})));
    let titles: Vec<String> = objects.iter().map(title).collect();
    let (first, rest) = titles.split_first().unwrap();
    assert_eq!(*first, format!("ConfigMap {}", revision_name(OWNER, &spec(json!({})))));
    assert_eq!(
        rest,
        [
            "Service demo-nodes",
            "Service demo",
            "StatefulSet demo-shard-0",
            "PodDisruptionBudget demo-shard-0",
            "StatefulSet demo-shard-1",
            "PodDisruptionBudget demo-shard-1",
            "StatefulSet demo-shard-2",
            "PodDisruptionBudget demo-shard-2",
        ]
    );
    for object in &objects {
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "u-1", "{}", title(object));
        assert_eq!(owner["controller"], true, "{}", title(object));
    }
    let set = find(&objects, "StatefulSet demo-shard-1");
    assert_eq!(set["spec"]["replicas"], 3);
    assert_eq!(set["spec"]["updateStrategy"]["type"], "OnDelete");
    assert_eq!(set["spec"]["serviceName"], "demo-nodes");
    assert!(set["spec"]["volumeClaimTemplates"].is_null());
}

#[test]
fn volumes_follow_the_storage() {
    for (on_delete, expected) in [("Retain", "Retain"), ("Delete", "Delete")] {
        let storage = json!({"size": "1Gi", "onDelete": on_delete});
        let objects = objects(OWNER, &spec(json!({"storage": storage})));
        let set = find(&objects, "StatefulSet demo-shard-0");
        let policy = &set["spec"]["persistentVolumeClaimRetentionPolicy"];
        assert_eq!(policy["whenDeleted"], expected);
        let claim = &set["spec"]["volumeClaimTemplates"][0];
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
        let config = &objects[0];
        assert!(config["data"]["redis.conf"].as_str().unwrap().contains("appendonly yes"));
    }
}

#[test]
fn no_server_listens_on_all_addresses_and_no_object_contains_a_password() {
    let spec_without = spec(json!({"port": 7000}));
    let spec = spec(json!({"auth": {"secretName": "demo-auth"}, "port": 7000}));
    assert_eq!(objects(OWNER, &spec), objects(OWNER, &spec_without), "the host keeps the password");
    for object in objects(OWNER, &spec) {
        let text = object.to_string();
        for forbidden in ["0.0.0.0", "localhost", "127.0.0.1", "requirepass \\\"demo"] {
            assert!(!text.contains(forbidden), "{} has {forbidden}", title(&object));
        }
    }
    let set = find(&objects(OWNER, &spec), "StatefulSet demo-shard-0");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let secret = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .find(|variable| variable["name"] == "REDISCLI_AUTH");
    assert_eq!(
        secret.unwrap()["valueFrom"]["secretKeyRef"],
        json!({"name": format!("tholepin-credentials-rediscluster-{}", OWNER.uid), "key": "password"})
    );
    assert_eq!(container["ports"][1]["containerPort"], 17_000);
}

#[test]
fn settings_become_lines() {
    let settings = json!({
        "maxmemory": "100mb", "notify-keyspace-events": "", "hz": 20, "slowlog-max-len": 5,
    });
    let objects = objects(OWNER, &spec(json!({"settings": settings})));
    let config = &objects[0];
    assert_eq!(config["immutable"], true);
    let text = config["data"]["redis.conf"].as_str().unwrap();
    // Settings that can be changed at run time are in the other file.
    assert!(!text.contains("slowlog-max-len") && !text.contains("cluster-node-timeout"), "{text}");
    let set = find(&objects, "StatefulSet demo-shard-0");
    let sources = &set["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"];
    assert_eq!(sources[0]["configMap"]["name"], config["metadata"]["name"]);
    assert_eq!(sources[1]["configMap"]["name"], "demo-live");
    for line in ["maxmemory 100mb", "notify-keyspace-events \"\"", "hz 20"] {
        assert!(text.lines().any(|written| written == line), "{line}: {text}");
    }
}

#[test]
fn the_same_spec_gives_the_same_objects() {
    let spec = spec(json!({}));
    assert_eq!(objects(OWNER, &spec), objects(OWNER, &spec));
    let instance = instance(OWNER, &spec);
    assert_eq!(instance.selector, format!("{CLUSTER_LABEL}=demo"));
}

/// A selector that matched nothing, or another shard's Pods, would let a controller adopt them.
#[test]
fn a_shard_selects_its_own_pods_and_names_their_volumes() {
    let objects = objects(OWNER, &spec(json!({"shards": 2, "storage": {"size": "1Gi"}})));
    for shard in ["0", "1"] {
        let set = find(&objects, &format!("StatefulSet demo-shard-{shard}"));
        let selector = json!({CLUSTER_LABEL: "demo", SHARD_LABEL: shard});
        assert_eq!(set["spec"]["selector"]["matchLabels"], selector);
        let labels = &set["spec"]["template"]["metadata"]["labels"];
        for (name, value) in selector.as_object().unwrap() {
            assert_eq!(labels[name], *value);
        }
        let template = &set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"];
        let pod = format!("demo-shard-{shard}-0");
        assert_eq!(claim(&pod), format!("{}-{pod}", template.as_str().unwrap()));
    }
}
