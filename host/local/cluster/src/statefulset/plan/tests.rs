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
    created_pods: u32,
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
            created_pods: 0,
        }
    }

    /// Plans and performs one reconcile. Returns the writes, without the status, as short texts.
    fn reconcile(&mut self) -> Vec<String> {
        let (pods, claims) = (values(&self.pods), values(&self.claims));
        let revisions = values(&self.revisions);
        let plan = plan(&StatefulSetPlanInput {
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
            let mut written = self.reconcile();
            let status_is_unchanged = before == self.set.status;
            let is_settled = written.is_empty() && !self.run_pods() && status_is_unchanged;
            all.append(&mut written);
            if is_settled {
                return all;
            }
        }
        panic!("the set does not come to rest: {all:?}");
    }

    fn perform(&mut self, write: StatefulSetWrite) -> Option<String> {
        Some(match write {
            StatefulSetWrite::CreateRevision(revision) => {
                let name = revision.metadata.name.clone().unwrap();
                assert!(self.revisions.insert(name, revision.into()).is_none());
                "new revision".to_owned()
            }
            StatefulSetWrite::RaiseRevision { name, revision } => {
                Arc::make_mut(self.revisions.get_mut(&name).unwrap()).revision = revision;
                "raise revision".to_owned()
            }
            StatefulSetWrite::DeleteRevision { name } => {
                self.revisions.remove(&name).unwrap();
                "forget revision".to_owned()
            }
            StatefulSetWrite::CreateClaim(claim) => {
                let name = claim.metadata.name.clone().unwrap();
                assert!(self.claims.insert(name.clone(), claim.into()).is_none());
                format!("+{name}")
            }
            StatefulSetWrite::SetClaimOwners { name, owners, .. } => {
                let kinds: Vec<String> = owners.iter().map(|owner| owner.kind.clone()).collect();
                let claim = Arc::make_mut(self.claims.get_mut(&name).unwrap());
                claim.metadata.owner_references = Some(owners);
                format!("{name} owned by [{}]", kinds.join(", "))
            }
            StatefulSetWrite::AdoptPod(OwnerReferenceAdoption { name, owners, .. }) => {
                let pod = Arc::make_mut(self.pods.get_mut(&name).unwrap());
                pod.metadata.owner_references = Some(owners);
                format!("adopt {name}")
            }
            StatefulSetWrite::AdoptRevision(OwnerReferenceAdoption { name, owners, .. }) => {
                let revision = Arc::make_mut(self.revisions.get_mut(&name).unwrap());
                revision.metadata.owner_references = Some(owners);
                "adopt revision".to_owned()
            }
            StatefulSetWrite::CreatePod(mut pod) => {
                let name = pod.metadata.name.clone().unwrap();
                self.created_pods += 1;
                pod.metadata.uid = Some(format!("uid-{}", self.created_pods));
                assert!(self.pods.insert(name.clone(), pod.into()).is_none());
                format!("+{name}")
            }
            StatefulSetWrite::DeletePod { name, uid } => {
                let pod = Arc::make_mut(self.pods.get_mut(&name).unwrap());
                assert_eq!(pod.metadata.uid, uid);
                pod.metadata.deletion_timestamp = Some(k8s_time(self.now));
                format!("-{name}")
            }
            StatefulSetWrite::SetStatus(status) => {
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
                self.remove_pod(&name);
                changed = true;
            } else if pod.status.is_none() {
                self.phase(&name, "Running", true);
                changed = true;
            }
        }
        changed
    }

    /// Removes a Pod and, as garbage collection does, the claims that it owns.
    fn remove_pod(&mut self, name: &str) {
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
        self.set.metadata.generation =
            self.set.metadata.generation.map(|generation| generation + 1);
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
    let mut fixture = PlanFixture::new(json!({"replicas": 3}));
    assert_eq!(fixture.reconcile(), ["new revision", "+db-0"]);
    assert_eq!(fixture.reconcile(), [""; 0], "db-0 is not ready yet");
    fixture.phase("db-0", "Running", false);
    assert_eq!(fixture.reconcile(), [""; 0], "running is not ready");
    fixture.phase("db-0", "Running", true);
    assert_eq!(fixture.reconcile(), ["+db-1"]);
    assert_eq!(fixture.settle(), ["+db-2"]);
    fixture.spec(json!({"replicas": 1}));
    assert_eq!(fixture.reconcile(), ["-db-2"]);
    assert_eq!(fixture.reconcile(), [""; 0], "db-2 still goes");
    assert_eq!(fixture.settle(), ["-db-1"]);
    fixture.spec(json!({"replicas": 0}));
    assert_eq!(fixture.settle(), ["-db-0"]);
}

#[test]
fn parallel_sets_change_all_pods_in_one_reconcile() {
    let mut fixture = PlanFixture::new(json!({"replicas": 3, "podManagementPolicy": "Parallel"}));
    assert_eq!(fixture.reconcile(), ["new revision", "+db-0", "+db-1", "+db-2"]);
    fixture.settle();
    fixture.spec(json!({"replicas": 1}));
    assert_eq!(fixture.reconcile(), ["-db-2", "-db-1"]);
}

#[test]
fn ordinals_may_start_elsewhere() {
    let mut fixture = PlanFixture::new(json!({"replicas": 2, "ordinals": {"start": 5}}));
    assert_eq!(fixture.settle(), ["new revision", "+db-5", "+db-6"]);
    fixture.spec(json!({"ordinals": {"start": 6}}));
    assert_eq!(fixture.settle(), ["+db-7", "-db-5"]);
}

#[test]
fn a_pod_has_its_identity() {
    let mut fixture = PlanFixture::new(json!({"volumeClaimTemplates": claims()}));
    fixture.settle();
    let pod = serde_json::to_value(&*fixture.pods["db-0"]).unwrap();
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-0");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(labels["app"], "db");
    assert_eq!(labels[REVISION_LABEL], **fixture.revisions.keys().next().unwrap());
    assert_eq!(pod["spec"]["hostname"], "db-0");
    assert_eq!(pod["spec"]["subdomain"], "peers");
    let volume = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]);
    assert_eq!(pod["spec"]["volumes"], volume);
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "set-uid");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["controller"], true);
}

#[test]
fn a_pod_that_was_removed_or_ended_is_recreated_with_its_claim() {
    for phase in ["Failed", "Succeeded"] {
        let mut fixture =
            PlanFixture::new(json!({"replicas": 2, "volumeClaimTemplates": claims()}));
        let grown = ["new revision", "+data-db-0", "+db-0", "+data-db-1", "+db-1"];
        assert_eq!(fixture.settle(), grown);
        fixture.remove_pod("db-0");
        assert_eq!(fixture.reconcile(), ["+db-0"]);
        fixture.settle();
        fixture.phase("db-1", phase, false);
        assert_eq!(fixture.settle(), ["-db-1", "+db-1"], "{phase}");
    }
}

#[test]
fn a_pod_of_another_owner_is_left_alone() {
    let mut fixture = PlanFixture::new(json!({}));
    let metadata = json!({"namespace": "a", "name": "db-0"});
    let stranger: Pod = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
    fixture.pods.insert("db-0".into(), Arc::new(stranger));
    assert_eq!(fixture.reconcile(), ["new revision"]);
}

#[test]
fn objects_that_a_deleted_set_orphaned_are_adopted() {
    let mut fixture = PlanFixture::new(json!({"replicas": 3, "podManagementPolicy": "Parallel"}));
    fixture.settle();
    let revision = fixture.set.status.as_ref().unwrap().update_revision.clone();
    // As after `kubectl delete --cascade=orphan` and a new creation of the set.
    for pod in fixture.pods.values_mut() {
        Arc::make_mut(pod).metadata.owner_references = None;
    }
    for revision in fixture.revisions.values_mut() {
        Arc::make_mut(revision).metadata.owner_references = None;
    }
    fixture.set.metadata.uid = Some("new-uid".into());
    fixture.set.status = None;
    // One Pod is controlled by another object, and one does not match the selector.
    let other = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x", "controller": true}]);
    let pod = Arc::make_mut(fixture.pods.get_mut("db-1").unwrap());
    pod.metadata.owner_references = Some(serde_json::from_value(other).unwrap());
    Arc::make_mut(fixture.pods.get_mut("db-2").unwrap()).metadata.labels = None;
    assert_eq!(fixture.settle(), ["adopt db-0", "adopt revision"]);
    assert_eq!(fixture.set.status.as_ref().unwrap().update_revision, revision);
    assert_eq!(fixture.set.status.as_ref().unwrap().replicas, 1);
    let owners = fixture.pods["db-0"].metadata.owner_references.clone().unwrap();
    assert_eq!(owners[0].uid, "new-uid");
}

#[test]
fn a_rolling_update_goes_from_the_top_and_waits_for_each() {
    let mut fixture = PlanFixture::new(json!({"replicas": 3}));
    fixture.settle();
    fixture.image("redis:8");
    assert_eq!(fixture.reconcile(), ["new revision", "-db-2"]);
    assert_eq!(fixture.reconcile(), [""; 0]);
    fixture.run_pods();
    assert_eq!(fixture.reconcile(), ["+db-2"]);
    assert_eq!(fixture.reconcile(), [""; 0], "db-2 is not ready yet");
    assert_eq!(fixture.settle(), ["-db-1", "+db-1", "-db-0", "+db-0"]);
    let status = fixture.set.status.as_ref().unwrap();
    assert_eq!(status.current_revision, status.update_revision);
}

#[test]
fn a_partition_keeps_the_lower_ordinals_at_the_old_revision() {
    let strategy = |partition: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
    let mut fixture = PlanFixture::new(json!({"replicas": 3}));
    fixture.settle();
    fixture.spec(strategy(2));
    fixture.image("redis:8");
    assert_eq!(fixture.settle(), ["new revision", "-db-2", "+db-2"]);
    fixture.remove_pod("db-0");
    fixture.settle();
    assert_eq!(fixture.images(), ["redis:7", "redis:7", "redis:8"]);
    let status = fixture.set.status.as_ref().unwrap();
    assert_ne!(status.current_revision, status.update_revision);
    let counts = (status.current_replicas, status.updated_replicas);
    assert_eq!(counts, (Some(2), Some(1)));
    fixture.spec(strategy(0));
    assert_eq!(fixture.settle(), ["-db-1", "+db-1", "-db-0", "+db-0"]);
}

#[test]
fn on_delete_replaces_only_deleted_pods() {
    let mut fixture =
        PlanFixture::new(json!({"replicas": 2, "updateStrategy": {"type": "OnDelete"}}));
    fixture.settle();
    fixture.image("redis:8");
    assert_eq!(fixture.settle(), ["new revision"]);
    assert_eq!(fixture.images(), ["redis:7", "redis:7"]);
    fixture.remove_pod("db-1");
    assert_eq!(fixture.settle(), ["+db-1"]);
    assert_eq!(fixture.images(), ["redis:7", "redis:8"]);
}

#[test]
fn revisions_are_reused_and_deleted_beyond_the_limit() {
    let mut fixture = PlanFixture::new(json!({"replicas": 1, "revisionHistoryLimit": 1}));
    fixture.settle();
    fixture.image("redis:8");
    fixture.settle();
    fixture.image("redis:7");
    assert_eq!(fixture.settle(), ["raise revision", "-db-0", "+db-0"]);
    for image in ["redis:9", "redis:10"] {
        fixture.image(image);
        fixture.settle();
    }
    assert_eq!(fixture.revisions.len(), 2, "one in use and one of history");
}

#[test]
fn availability_takes_min_ready_seconds() {
    let mut fixture = PlanFixture::new(json!({"replicas": 2, "minReadySeconds": 10}));
    fixture.reconcile();
    fixture.phase("db-0", "Running", true);
    assert_eq!(fixture.reconcile(), [""; 0]);
    assert_eq!(fixture.status()["readyReplicas"], 1);
    assert_eq!(fixture.status()["availableReplicas"], 0);
    let requeue_at = {
        let (pods, revisions) = (values(&fixture.pods), values(&fixture.revisions));
        let observed = StatefulSetPlanInput {
            set: &fixture.set,
            pods: &pods,
            claims: &[],
            revisions: &revisions,
            now: fixture.now,
        };
        plan(&observed).requeue_at
    };
    fixture.now = requeue_at.unwrap();
    assert_eq!(fixture.reconcile(), ["+db-1"]);
    assert_eq!(fixture.status()["availableReplicas"], 1);
}

#[test]
fn status_counts_the_observed_pods() {
    let mut fixture = PlanFixture::new(json!({"replicas": 2}));
    fixture.settle();
    let expected = json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 2,
        "currentReplicas": 2, "updatedReplicas": 2, "observedGeneration": 1});
    assert_eq!(fixture.status(), expected);
    fixture.phase("db-1", "Running", false);
    fixture.spec(json!({"replicas": 2}));
    fixture.settle();
    assert_eq!(fixture.status()["readyReplicas"], 1);
    assert_eq!(fixture.status()["observedGeneration"], 2);
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
        let mut fixture =
            PlanFixture::new(json!({"replicas": 2, "volumeClaimTemplates": claims()}));
        fixture.settle();
        fixture.spec(policy(deleted, scaled));
        assert_eq!(fixture.settle(), at_rest, "{deleted} {scaled}");
        fixture.spec(json!({"replicas": 1}));
        assert_eq!(fixture.settle(), scaling, "{deleted} {scaled}");
        let kept = if scaled == "Retain" { 2 } else { 1 };
        assert_eq!(fixture.claims.len(), kept, "{deleted} {scaled}");
    }
}

#[test]
fn a_pod_waits_until_the_claim_of_its_predecessor_is_deleted() {
    let mut fixture = PlanFixture::new(json!({"replicas": 1, "volumeClaimTemplates": claims()}));
    fixture.settle();
    let claim = Arc::make_mut(fixture.claims.get_mut("data-db-0").unwrap());
    claim.metadata.deletion_timestamp = Some(k8s_time(fixture.now));
    fixture.remove_pod("db-0");
    assert_eq!(fixture.reconcile(), [""; 0]);
    fixture.claims.clear();
    assert_eq!(fixture.reconcile(), ["+data-db-0", "+db-0"]);
}

#[test]
fn a_set_that_is_being_deleted_is_left_to_the_garbage_collection() {
    let mut fixture = PlanFixture::new(json!({"replicas": 1}));
    fixture.set.metadata.deletion_timestamp = Some(k8s_time(fixture.now));
    assert_eq!(fixture.reconcile(), [""; 0]);
}
