//! Sequences of plans for StatefulSets, against a fixture that performs every write immediately.

use serde_json::{Value, json};

use super::*;
use crate::statefulset::pods::REVISION_LABEL;

/// The part of the API server and of the node agent that the planner can observe.
struct PlanFixture {
    set: StatefulSet,
    pods: BTreeMap<String, Arc<Pod>>,
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    revisions: BTreeMap<String, Arc<ControllerRevision>>,
    now: Timestamp,
    born: u32,
}

impl PlanFixture {
    fn new(spec: Value) -> Self {
        let mut full = json!({
            "serviceName": "peers",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c", "image": "redis:7"}]},
            },
        });
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"namespace": "a", "name": "db", "uid": "set-uid", "generation": 1});
        Self {
            set: serde_json::from_value(json!({"metadata": metadata, "spec": full})).unwrap(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            revisions: BTreeMap::new(),
            now: Timestamp::UNIX_EPOCH,
            born: 0,
        }
    }

    /// Plans and performs one reconcile. Returns the writes, without the status, as short texts.
    fn pass(&mut self) -> Vec<String> {
        let (pods, claims) = (values(&self.pods), values(&self.claims));
        let revisions = values(&self.revisions);
        let plan = plan(&ObservedStatefulSet {
            set: &self.set,
            pods: &pods,
            claims: &claims,
            revisions: &revisions,
            now: self.now,
        });
        plan.writes.into_iter().filter_map(|write| self.perform(write)).collect()
    }

    /// Reconciles until nothing is written any more, making Pods ready and ending those that are being
    /// deleted.
    fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..100 {
            let before = self.set.status.clone();
            let mut written = self.pass();
            let is_told = before == self.set.status;
            let is_still = written.is_empty() && !self.run_pods() && is_told;
            all.append(&mut written);
            if is_still {
                return all;
            }
        }
        panic!("the set does not come to rest: {all:?}");
    }

    fn perform(&mut self, write: PlannedWrite) -> Option<String> {
        Some(match write {
            PlannedWrite::CreateRevision(revision) => {
                let name = revision.metadata.name.clone().unwrap();
                assert!(self.revisions.insert(name, revision.into()).is_none());
                "new revision".to_owned()
            }
            PlannedWrite::RaiseRevision { name, revision } => {
                Arc::make_mut(self.revisions.get_mut(&name).unwrap()).revision = revision;
                "raise revision".to_owned()
            }
            PlannedWrite::DeleteRevision { name } => {
                self.revisions.remove(&name).unwrap();
                "forget revision".to_owned()
            }
            PlannedWrite::CreateClaim(claim) => {
                let name = claim.metadata.name.clone().unwrap();
                assert!(self.claims.insert(name.clone(), claim.into()).is_none());
                format!("+{name}")
            }
            PlannedWrite::SetClaimOwners { name, owners, .. } => {
                let kinds: Vec<String> = owners.iter().map(|owner| owner.kind.clone()).collect();
                let claim = Arc::make_mut(self.claims.get_mut(&name).unwrap());
                claim.metadata.owner_references = Some(owners);
                format!("{name} owned by [{}]", kinds.join(", "))
            }
            PlannedWrite::AdoptPod(Adoption { name, owners, .. }) => {
                let pod = Arc::make_mut(self.pods.get_mut(&name).unwrap());
                pod.metadata.owner_references = Some(owners);
                format!("adopt {name}")
            }
            PlannedWrite::AdoptRevision(Adoption { name, owners, .. }) => {
                let revision = Arc::make_mut(self.revisions.get_mut(&name).unwrap());
                revision.metadata.owner_references = Some(owners);
                "adopt revision".to_owned()
            }
            PlannedWrite::CreatePod(mut pod) => {
                let name = pod.metadata.name.clone().unwrap();
                self.born += 1;
                pod.metadata.uid = Some(format!("uid-{}", self.born));
                assert!(self.pods.insert(name.clone(), pod.into()).is_none());
                format!("+{name}")
            }
            PlannedWrite::DeletePod { name, uid } => {
                let pod = Arc::make_mut(self.pods.get_mut(&name).unwrap());
                assert_eq!(pod.metadata.uid, uid);
                pod.metadata.deletion_timestamp = Some(k8s_time(self.now));
                format!("-{name}")
            }
            PlannedWrite::SetStatus(status) => {
                self.set.status = Some(*status);
                return None;
            }
        })
    }

    /// Advances every Pod by one step. Returns true if any changed.
    fn run_pods(&mut self) -> bool {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        let mut changed = false;
        for name in names {
            let pod = &self.pods[&name];
            if pod.metadata.deletion_timestamp.is_some() {
                self.vanish(&name);
                changed = true;
            } else if pod.status.is_none() {
                self.phase(&name, "Running", true);
                changed = true;
            }
        }
        changed
    }

    /// Removes a Pod and, as garbage collection does, the claims that it owns.
    fn vanish(&mut self, name: &str) {
        let uid = self.pods.remove(name).unwrap().metadata.uid.clone().unwrap();
        self.claims.retain(|_, claim| {
            let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
            !owners.iter().any(|owner| owner.uid == uid)
        });
    }

    fn phase(&mut self, name: &str, phase: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": self.now});
        let status = json!({"phase": phase, "conditions": [condition]});
        let pod = Arc::make_mut(self.pods.get_mut(name).unwrap());
        pod.status = Some(serde_json::from_value(status).unwrap());
    }

    fn spec(&mut self, change: Value) {
        let mut spec = serde_json::to_value(self.set.spec.as_ref().unwrap()).unwrap();
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        self.set.spec = Some(serde_json::from_value(spec).unwrap());
        self.set.metadata.generation = self.set.metadata.generation.map(|it| it + 1);
    }

    fn image(&mut self, image: &str) {
        let spec = self.set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        spec.containers[0].image = Some(image.to_owned());
    }

    fn images(&self) -> Vec<String> {
        let container = |pod: &Arc<Pod>| pod.spec.as_ref().unwrap().containers[0].clone();
        self.pods.values().map(|pod| container(pod).image.unwrap()).collect()
    }

    fn status(&self) -> Value {
        let mut status = serde_json::to_value(self.set.status.as_ref().unwrap()).unwrap();
        let fields = status.as_object_mut().unwrap();
        fields.retain(|key, _| {
            !["currentRevision", "updateRevision", "collisionCount"].contains(&&**key)
        });
        status
    }
}

fn values<T>(map: &BTreeMap<String, Arc<T>>) -> Vec<Arc<T>> {
    map.values().cloned().collect()
}

fn k8s_time(at: Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at)
}

fn claims() -> Value {
    json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}])
}

#[test]
fn ordered_sets_grow_one_by_one_and_shrink_from_the_top() {
    let mut world = PlanFixture::new(json!({"replicas": 3}));
    assert_eq!(world.pass(), ["new revision", "+db-0"]);
    assert_eq!(world.pass(), [""; 0], "db-0 is not ready yet");
    world.phase("db-0", "Running", false);
    assert_eq!(world.pass(), [""; 0], "running is not ready");
    world.phase("db-0", "Running", true);
    assert_eq!(world.pass(), ["+db-1"]);
    assert_eq!(world.settle(), ["+db-2"]);
    world.spec(json!({"replicas": 1}));
    assert_eq!(world.pass(), ["-db-2"]);
    assert_eq!(world.pass(), [""; 0], "db-2 still goes");
    assert_eq!(world.settle(), ["-db-1"]);
    world.spec(json!({"replicas": 0}));
    assert_eq!(world.settle(), ["-db-0"]);
}

#[test]
fn parallel_sets_do_all_at_once() {
    let mut world = PlanFixture::new(json!({"replicas": 3, "podManagementPolicy": "Parallel"}));
    assert_eq!(world.pass(), ["new revision", "+db-0", "+db-1", "+db-2"]);
    world.settle();
    world.spec(json!({"replicas": 1}));
    assert_eq!(world.pass(), ["-db-2", "-db-1"]);
}

#[test]
fn ordinals_may_start_elsewhere() {
    let mut world = PlanFixture::new(json!({"replicas": 2, "ordinals": {"start": 5}}));
    assert_eq!(world.settle(), ["new revision", "+db-5", "+db-6"]);
    world.spec(json!({"ordinals": {"start": 6}}));
    assert_eq!(world.settle(), ["+db-7", "-db-5"]);
}

#[test]
fn a_pod_knows_who_it_is() {
    let mut world = PlanFixture::new(json!({"volumeClaimTemplates": claims()}));
    world.settle();
    let pod = serde_json::to_value(&*world.pods["db-0"]).unwrap();
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-0");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(labels["app"], "db");
    assert_eq!(labels[REVISION_LABEL], **world.revisions.keys().next().unwrap());
    assert_eq!(pod["spec"]["hostname"], "db-0");
    assert_eq!(pod["spec"]["subdomain"], "peers");
    let volume = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]);
    assert_eq!(pod["spec"]["volumes"], volume);
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "set-uid");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["controller"], true);
}

#[test]
fn a_pod_that_vanished_or_ended_returns_with_its_claim() {
    for phase in ["Failed", "Succeeded"] {
        let mut world = PlanFixture::new(json!({"replicas": 2, "volumeClaimTemplates": claims()}));
        let grown = ["new revision", "+data-db-0", "+db-0", "+data-db-1", "+db-1"];
        assert_eq!(world.settle(), grown);
        world.vanish("db-0");
        assert_eq!(world.pass(), ["+db-0"]);
        world.settle();
        world.phase("db-1", phase, false);
        assert_eq!(world.settle(), ["-db-1", "+db-1"], "{phase}");
    }
}

#[test]
fn a_name_that_somebody_else_has_is_left_alone() {
    let mut world = PlanFixture::new(json!({}));
    let metadata = json!({"namespace": "a", "name": "db-0"});
    let stranger: Pod = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
    world.pods.insert("db-0".into(), Arc::new(stranger));
    assert_eq!(world.pass(), ["new revision"]);
}

#[test]
fn what_a_deleted_set_left_behind_is_adopted() {
    let mut world = PlanFixture::new(json!({"replicas": 3, "podManagementPolicy": "Parallel"}));
    world.settle();
    let revision = world.set.status.as_ref().unwrap().update_revision.clone();
    // As after `kubectl delete --cascade=orphan` and a new creation of the set.
    for pod in world.pods.values_mut() {
        Arc::make_mut(pod).metadata.owner_references = None;
    }
    for revision in world.revisions.values_mut() {
        Arc::make_mut(revision).metadata.owner_references = None;
    }
    world.set.metadata.uid = Some("new-uid".into());
    world.set.status = None;
    // One Pod is controlled by another object, and one does not match the selector.
    let other = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x", "controller": true}]);
    let pod = Arc::make_mut(world.pods.get_mut("db-1").unwrap());
    pod.metadata.owner_references = Some(serde_json::from_value(other).unwrap());
    Arc::make_mut(world.pods.get_mut("db-2").unwrap()).metadata.labels = None;
    assert_eq!(world.settle(), ["adopt db-0", "adopt revision"]);
    assert_eq!(world.set.status.as_ref().unwrap().update_revision, revision);
    assert_eq!(world.set.status.as_ref().unwrap().replicas, 1);
    let owners = world.pods["db-0"].metadata.owner_references.clone().unwrap();
    assert_eq!(owners[0].uid, "new-uid");
}

#[test]
fn a_rolling_update_goes_from_the_top_and_waits_for_each() {
    let mut world = PlanFixture::new(json!({"replicas": 3}));
    world.settle();
    world.image("redis:8");
    assert_eq!(world.pass(), ["new revision", "-db-2"]);
    assert_eq!(world.pass(), [""; 0]);
    world.run_pods();
    assert_eq!(world.pass(), ["+db-2"]);
    assert_eq!(world.pass(), [""; 0], "db-2 is not ready yet");
    assert_eq!(world.settle(), ["-db-1", "+db-1", "-db-0", "+db-0"]);
    let status = world.set.status.as_ref().unwrap();
    assert_eq!(status.current_revision, status.update_revision);
}

#[test]
fn a_partition_keeps_the_lower_ordinals_as_they_were() {
    let strategy = |partition: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
    let mut world = PlanFixture::new(json!({"replicas": 3}));
    world.settle();
    world.spec(strategy(2));
    world.image("redis:8");
    assert_eq!(world.settle(), ["new revision", "-db-2", "+db-2"]);
    world.vanish("db-0");
    world.settle();
    assert_eq!(world.images(), ["redis:7", "redis:7", "redis:8"]);
    let status = world.set.status.as_ref().unwrap();
    assert_ne!(status.current_revision, status.update_revision);
    let counts = (status.current_replicas, status.updated_replicas);
    assert_eq!(counts, (Some(2), Some(1)));
    world.spec(strategy(0));
    assert_eq!(world.settle(), ["-db-1", "+db-1", "-db-0", "+db-0"]);
}

#[test]
fn on_delete_leaves_the_replacement_to_others() {
    let mut world =
        PlanFixture::new(json!({"replicas": 2, "updateStrategy": {"type": "OnDelete"}}));
    world.settle();
    world.image("redis:8");
    assert_eq!(world.settle(), ["new revision"]);
    assert_eq!(world.images(), ["redis:7", "redis:7"]);
    world.vanish("db-1");
    assert_eq!(world.settle(), ["+db-1"]);
    assert_eq!(world.images(), ["redis:7", "redis:8"]);
}

#[test]
fn revisions_are_found_again_and_forgotten_beyond_the_limit() {
    let mut world = PlanFixture::new(json!({"replicas": 1, "revisionHistoryLimit": 1}));
    world.settle();
    world.image("redis:8");
    world.settle();
    world.image("redis:7");
    assert_eq!(world.settle(), ["raise revision", "-db-0", "+db-0"]);
    for image in ["redis:9", "redis:10"] {
        world.image(image);
        world.settle();
    }
    assert_eq!(world.revisions.len(), 2, "one in use and one of history");
}

#[test]
fn availability_takes_its_time() {
    let mut world = PlanFixture::new(json!({"replicas": 2, "minReadySeconds": 10}));
    world.pass();
    world.phase("db-0", "Running", true);
    assert_eq!(world.pass(), [""; 0]);
    assert_eq!(world.status()["readyReplicas"], 1);
    assert_eq!(world.status()["availableReplicas"], 0);
    let look_again_at = {
        let (pods, revisions) = (values(&world.pods), values(&world.revisions));
        let observed = ObservedStatefulSet {
            set: &world.set,
            pods: &pods,
            claims: &[],
            revisions: &revisions,
            now: world.now,
        };
        plan(&observed).look_again_at
    };
    world.now = look_again_at.unwrap();
    assert_eq!(world.pass(), ["+db-1"]);
    assert_eq!(world.status()["availableReplicas"], 1);
}

#[test]
fn status_tells_what_is() {
    let mut world = PlanFixture::new(json!({"replicas": 2}));
    world.settle();
    let expected = json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 2,
        "currentReplicas": 2, "updatedReplicas": 2, "observedGeneration": 1});
    assert_eq!(world.status(), expected);
    world.phase("db-1", "Running", false);
    world.spec(json!({"replicas": 2}));
    world.settle();
    assert_eq!(world.status()["readyReplicas"], 1);
    assert_eq!(world.status()["observedGeneration"], 2);
}

#[test]
fn claims_follow_the_retention_policy() {
    let policy = |deleted: &str, scaled: &str| json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}});
    let cases: [(&str, &str, &[&str], &[&str]); 4] = [
        ("Retain", "Retain", &[], &["-db-1"]),
        (
            "Delete",
            "Retain",
            &["data-db-0 owned by [StatefulSet]", "data-db-1 owned by [StatefulSet]"],
            &["-db-1"],
        ),
        ("Retain", "Delete", &[], &["data-db-1 owned by [Pod]", "-db-1"]),
        (
            "Delete",
            "Delete",
            &["data-db-0 owned by [StatefulSet]", "data-db-1 owned by [StatefulSet]"],
            &["data-db-1 owned by [Pod]", "-db-1"],
        ),
    ];
    for (deleted, scaled, at_rest, scaling) in cases {
        let mut world = PlanFixture::new(json!({"replicas": 2, "volumeClaimTemplates": claims()}));
        world.settle();
        world.spec(policy(deleted, scaled));
        assert_eq!(world.settle(), at_rest, "{deleted} {scaled}");
        world.spec(json!({"replicas": 1}));
        assert_eq!(world.settle(), scaling, "{deleted} {scaled}");
        let kept = if scaled == "Retain" { 2 } else { 1 };
        assert_eq!(world.claims.len(), kept, "{deleted} {scaled}");
    }
}

#[test]
fn a_pod_waits_until_the_claim_of_its_predecessor_has_gone() {
    let mut world = PlanFixture::new(json!({"replicas": 1, "volumeClaimTemplates": claims()}));
    world.settle();
    let claim = Arc::make_mut(world.claims.get_mut("data-db-0").unwrap());
    claim.metadata.deletion_timestamp = Some(k8s_time(world.now));
    world.vanish("db-0");
    assert_eq!(world.pass(), [""; 0]);
    world.claims.clear();
    assert_eq!(world.pass(), ["+data-db-0", "+db-0"]);
}

#[test]
fn a_set_that_is_being_deleted_is_left_to_the_garbage_collection() {
    let mut world = PlanFixture::new(json!({"replicas": 1}));
    world.set.metadata.deletion_timestamp = Some(k8s_time(world.now));
    assert_eq!(world.pass(), [""; 0]);
}
