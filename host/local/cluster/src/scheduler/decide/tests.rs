//! Tables of Pods and nodes, with the expected decisions.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::*;
use crate::reflector::NamespacedName;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Returns a node in a zone, with 1 CPU, 1 GiB and room for 3 Pods, changed by a merge of `more`.
fn node(name: &str, zone: &str, more: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {ZONE: zone, "kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "3"}},
    });
    merge(&mut node, more);
    Arc::new(parse(node))
}

fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more,
    }
}

fn pod(spec: Value) -> Pod {
    let metadata = json!({"namespace": "a", "name": "new", "labels": {"app": "redis"}});
    parse(json!({"metadata": metadata, "spec": spec}))
}

/// Returns a Pod that is bound to `node` and runs.
fn bound_pod(node: &str, labels: Value, spec: Value) -> Arc<Pod> {
    let mut all = json!({
        "metadata": {"namespace": "a", "name": format!("on-{node}"), "labels": labels},
        "spec": {"nodeName": node},
        "status": {"phase": "Running"},
    });
    merge(&mut all, json!({ "spec": spec }));
    Arc::new(parse(all))
}

fn three(pods: Vec<Arc<Pod>>) -> SchedulerSnapshot {
    let nodes = [("n1", "a"), ("n2", "b"), ("n3", "c")];
    let nodes = nodes.iter().map(|(name, zone)| node(name, zone, json!({}))).collect();
    SchedulerSnapshot { nodes, pods, ..SchedulerSnapshot::default() }
}

#[track_caller]
fn goes_to(pod: &Pod, snapshot: &SchedulerSnapshot, expected: &str) {
    assert_eq!(decide(pod, snapshot), SchedulingDecision::Bind { node: expected.to_owned() });
}

#[track_caller]
fn goes_nowhere(pod: &Pod, snapshot: &SchedulerSnapshot, expected: &str) {
    assert_eq!(
        decide(pod, snapshot),
        SchedulingDecision::Unschedulable { message: expected.to_owned() }
    );
}

#[track_caller]
fn awaits_volumes(pod: &Pod, snapshot: &SchedulerSnapshot, expected: &str) {
    assert_eq!(
        decide(pod, snapshot),
        SchedulingDecision::AwaitVolumes { message: expected.to_owned() }
    );
}

#[test]
fn equal_nodes_go_by_name_and_the_emptier_wins() {
    goes_to(&pod(json!({})), &three(vec![]), "n1");
    goes_to(&pod(json!({})), &three(vec![bound_pod("n1", json!({}), json!({}))]), "n2");
}

#[test]
fn siblings_spread_over_zones_before_nodes() {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "u", "controller": true}]);
    let with_owner = |mut pod: Pod| {
        pod.metadata.owner_references = Some(parse(owner.clone()));
        pod
    };
    let sibling = with_owner((*bound_pod("n1", json!({}), json!({}))).clone());
    let stranger = bound_pod("n3", json!({}), json!({}));
    let mut snapshot = three(vec![Arc::new(sibling), stranger.clone(), stranger]);
    snapshot.nodes[1] = node("n2", "a", json!({}));
    goes_to(&with_owner(pod(json!({}))), &snapshot, "n3");
}

#[test]
fn nodes_are_chosen_by_selector_and_affinity() {
    let zone_in = |zones: Value| json!({"matchExpressions": [{"key": ZONE, "operator": "In", "values": zones}]});
    let required = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": zone_in(json!(["c"]))},
        {"weight": 1, "preference": zone_in(json!(["b"]))},
    ]}}});
    goes_to(&pod(json!({"nodeSelector": {ZONE: "b"}})), &three(vec![]), "n2");
    goes_to(&pod(required(json!([zone_in(json!(["c"]))]))), &three(vec![]), "n3");
    goes_to(&pod(preferred), &three(vec![]), "n3");
    let nowhere = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
    goes_nowhere(&pod(json!({"nodeSelector": {ZONE: "x"}})), &three(vec![]), nowhere);
}

#[test]
fn requests_are_compared_with_the_resources_left() {
    let requesting =
        |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
    let snapshot = three(vec![bound_pod("n1", json!({}), requesting("600m"))]);
    goes_to(&pod(requesting("400m")), &snapshot, "n2");
    let mut one = snapshot.clone();
    one.nodes.truncate(1);
    goes_to(&pod(requesting("400m")), &one, "n1");
    goes_nowhere(&pod(requesting("401m")), &one, "0/1 nodes are available: 1 Insufficient cpu.");
    let full = three(vec![bound_pod("n1", json!({}), json!({})); 3]);
    goes_nowhere(
        &pod(
            json!({"nodeSelector": {ZONE: "a"}, "containers": [{"name": "c", "resources": {"limits": {"memory": "2Gi"}}}]}),
        ),
        &full,
        "0/3 nodes are available: 1 Insufficient memory, 1 Too many pods, \
         2 node(s) didn't match Pod's node affinity/selector.",
    );
}

#[test]
fn an_init_container_counts_by_its_peak() {
    let spec = json!({
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "900m"}}}],
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "200m"}}}],
    });
    let mut one = three(vec![bound_pod(
        "n1",
        json!({}),
        json!({"containers": [
        {"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}),
    )]);
    one.nodes.truncate(1);
    goes_to(&pod(spec.clone()), &one, "n1");
    one.pods = vec![bound_pod(
        "n1",
        json!({}),
        json!({"containers": [
        {"name": "c", "resources": {"requests": {"cpu": "101m"}}}]}),
    )];
    goes_nowhere(&pod(spec), &one, "0/1 nodes are available: 1 Insufficient cpu.");
}

#[test]
fn finished_pods_take_no_room() {
    let mut done = (*bound_pod("n1", json!({}), json!({}))).clone();
    done.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let mut one = three(std::iter::repeat_n(Arc::new(done), 5).collect());
    one.nodes.truncate(1);
    goes_to(&pod(json!({})), &one, "n1");
}

#[test]
fn taints_repel_unless_tolerated() {
    let tainted = |effect: &str| {
        node("n1", "a", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}}))
    };
    let mut snapshot =
        SchedulerSnapshot { nodes: vec![tainted("NoSchedule")], ..SchedulerSnapshot::default() };
    let message = "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.";
    goes_nowhere(&pod(json!({})), &snapshot, message);
    let cases = [
        (json!({"key": "k", "value": "v"}), true),
        (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "value": "w"}), false),
        (json!({"key": "k", "value": "v", "effect": "NoExecute"}), false),
    ];
    for (toleration, tolerated) in cases {
        let decision = decide(&pod(json!({"tolerations": [toleration.clone()]})), &snapshot);
        assert_eq!(matches!(decision, SchedulingDecision::Bind { .. }), tolerated, "{toleration}");
    }
    snapshot.nodes = vec![tainted("NoExecute")];
    goes_nowhere(&pod(json!({})), &snapshot, message);
    snapshot.nodes = vec![tainted("PreferNoSchedule"), node("n2", "b", json!({}))];
    goes_to(&pod(json!({})), &snapshot, "n2");
    snapshot.nodes = vec![node("n1", "a", json!({"spec": {"unschedulable": true}}))];
    goes_nowhere(
        &pod(json!({})),
        &snapshot,
        "0/1 nodes are available: 1 node(s) were unschedulable.",
    );
}

fn term(app: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
}

fn affinity(kind: &str, terms: Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

#[test]
fn anti_affinity_keeps_apart_in_both_directions() {
    let apart = affinity("podAntiAffinity", json!([term("redis", ZONE)]));
    let redis = |node: &str| bound_pod(node, json!({"app": "redis"}), json!({}));
    goes_to(&pod(apart.clone()), &three(vec![redis("n1"), redis("n2")]), "n3");
    goes_nowhere(
        &pod(apart.clone()),
        &three(vec![redis("n1"), redis("n2"), redis("n3")]),
        "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.",
    );
    let mut guarded_snapshot = three(vec![bound_pod("n1", json!({"app": "other"}), apart)]);
    guarded_snapshot.nodes.truncate(1);
    goes_nowhere(
        &pod(json!({})),
        &guarded_snapshot,
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
}

#[test]
fn anti_affinity_applies_in_its_own_namespace_only() {
    let apart = affinity("podAntiAffinity", json!([term("redis", ZONE)]));
    let mut elsewhere = (*bound_pod("n1", json!({"app": "redis"}), json!({}))).clone();
    elsewhere.metadata.namespace = Some("b".into());
    let mut snapshot = three(vec![Arc::new(elsewhere)]);
    snapshot.nodes.truncate(1);
    goes_to(&pod(apart), &snapshot, "n1");
    snapshot.namespaces.insert("b".into(), Labels::from([("team".into(), "x".into())]));
    let mut term = term("redis", ZONE);
    term["namespaceSelector"] = json!({"matchLabels": {"team": "x"}});
    goes_nowhere(
        &pod(affinity("podAntiAffinity", json!([term]))),
        &snapshot,
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
    );
}

#[test]
fn affinity_follows_matching_pods_and_the_first_may_go_anywhere() {
    let near = |app: &str| pod(affinity("podAffinity", json!([term(app, ZONE)])));
    goes_to(&near("db"), &three(vec![bound_pod("n2", json!({"app": "db"}), json!({}))]), "n2");
    goes_to(&near("redis"), &three(vec![]), "n1");
    let message = "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.";
    goes_nowhere(&near("db"), &three(vec![]), message);
}

#[test]
fn preferred_affinity_decides_between_equal_nodes() {
    let weighted = json!([{"weight": 5, "podAffinityTerm": term("db", ZONE)}]);
    let prefers = |kind: &str| {
        pod(
            json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": weighted.clone()}}}),
        )
    };
    let snapshot = || {
        let mut all = three(vec![bound_pod("n1", json!({"app": "db"}), json!({}))]);
        all.nodes.truncate(2);
        all
    };
    goes_to(&prefers("podAffinity"), &snapshot(), "n1");
    goes_to(&prefers("podAntiAffinity"), &snapshot(), "n2");
}

#[test]
fn spread_constraints_bound_the_skew() {
    let spread = |when: &str, key: &str| {
        pod(json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key,
            "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "redis"}}}]}))
    };
    let redis = |node: &str| bound_pod(node, json!({"app": "redis"}), json!({}));
    let other = |node: &str| bound_pod(node, json!({"app": "other"}), json!({}));
    let lopsided = three(vec![redis("n1"), redis("n2"), other("n3"), other("n3")]);
    goes_to(&spread("DoNotSchedule", ZONE), &lopsided, "n3");
    goes_to(&spread("ScheduleAnyway", ZONE), &lopsided, "n3");
    let mut full = lopsided.clone();
    full.pods.push(other("n3"));
    goes_nowhere(
        &spread("DoNotSchedule", ZONE),
        &full,
        "0/3 nodes are available: 1 Too many pods, 2 node(s) didn't match pod topology spread constraints.",
    );
    goes_to(&spread("ScheduleAnyway", ZONE), &full, "n1");
    goes_nowhere(
        &spread("DoNotSchedule", "rack"),
        &lopsided,
        "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints (missing required label).",
    );
}

#[test]
fn claims_must_be_bound_and_their_volumes_reach_the_node() {
    let pod_with_claim =
        pod(json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}));
    let mut snapshot = three(vec![]);
    let message = |text: &str| format!("0/3 nodes are available: {text}.");
    awaits_volumes(&pod_with_claim, &snapshot, &message("persistentvolumeclaim \"c\" not found"));
    let claim = |phase: &str| {
        let claim = json!({"metadata": {"namespace": "a", "name": "c"}, "spec": {"volumeName": "v"}, "status": {"phase": phase}});
        Arc::new(parse(claim))
    };
    snapshot.claims.insert(NamespacedName::new("a", "c"), claim("Pending"));
    awaits_volumes(
        &pod_with_claim,
        &snapshot,
        &message("pod has unbound immediate PersistentVolumeClaims"),
    );
    snapshot.claims.insert(NamespacedName::new("a", "c"), claim("Bound"));
    goes_to(&pod_with_claim, &snapshot, "n1");
    let volume = |host: &str| {
        let terms = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]);
        Arc::new(parse(
            json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}),
        ))
    };
    snapshot.volumes.insert("v".into(), volume("n2"));
    goes_to(&pod_with_claim, &snapshot, "n2");
    snapshot.volumes.insert("v".into(), volume("n9"));
    goes_nowhere(
        &pod_with_claim,
        &snapshot,
        &message("3 node(s) had volume node affinity conflict"),
    );
}

#[test]
fn without_nodes_the_pod_is_unschedulable() {
    goes_nowhere(
        &pod(json!({})),
        &SchedulerSnapshot::default(),
        "no nodes available to schedule pods",
    );
}
