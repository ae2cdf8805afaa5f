//! The state of the cluster on which the scheduler decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};

use crate::labels::Labels;
use crate::reflector::NamespacedName;

/// All inputs of a decision.
#[derive(Clone, Debug, Default)]
pub struct SchedulerSnapshot {
    /// The nodes, ordered by name.
    pub nodes: Vec<Arc<Node>>,
    /// All Pods, bound or not.
    pub pods: Vec<Arc<Pod>>,
    /// The volume claims by namespace and name.
    pub claims: BTreeMap<NamespacedName, Arc<PersistentVolumeClaim>>,
    /// The volumes by name.
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// The labels of each namespace.
    pub namespaces: BTreeMap<String, Labels>,
}
