//! Creates a volume for each claim, binds the two, protects claims in use, and removes released volumes.
//!
//! The pure module [`claim`] decides what a claim needs; `disk` creates and removes the directories. Volumes
//! of one local host can be reached from all its nodes, so they have no node affinity and are bound
//! immediately.
//!
//! Invariant: a directory is removed only after a read from the API server shows that its claim no longer
//! exists.

pub mod claim;
mod disk;

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use disk::{data_directory, move_aside, remove_all};

use crate::api_writer::{ApiRequestError, ApiWriteError, ApiWriter};
use crate::events::{EventRecorder, EventSeverity};
use crate::reflector::{NamespacedName, ReflectorObjectChange};
use crate::reflectors::LocalClusterReflectors;
use crate::worker::{ControllerPanicError, DirtyKeys, Requeue, WorkLoop};
use claim::VolumeClaimStep;

/// The storage class of a local host, which is also the default class.
pub const CLASS: &str = "local";
/// The provisioner of that class.
pub const PROVISIONER: &str = "tholepin.dev/local";
/// The annotation with the name of the provisioner of a volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The name of this controller.
const NAME: &str = "persistentvolume-controller";
/// How many claims and volumes are reconciled concurrently.
const CONCURRENCY: usize = 8;

/// Returns the storage class of a local host.
pub fn storage_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    })
}

/// Why the reconcile of a claim or a volume failed.
#[derive(Debug, thiserror::Error)]
enum VolumeReconcileError {
    #[error(transparent)]
    Write(#[from] ApiWriteError),
    #[error("cannot read claim `{claim}`")]
    Read { claim: String, source: ApiRequestError },
    #[error("cannot create or remove the directory of volume `{volume}`")]
    Disk { volume: String, source: std::io::Error },
    #[error("a file task panicked")]
    Broken(#[from] tokio::task::JoinError),
}

/// The key of this controller: a claim or a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum VolumeControllerKey {
    Claim(NamespacedName),
    Volume(NamespacedName),
}

impl std::fmt::Display for VolumeControllerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Claim(key) => write!(f, "claim {key}"),
            Self::Volume(key) => write!(f, "volume {key}"),
        }
    }
}

/// The controller.
#[derive(Clone)]
pub struct VolumeController {
    client: Client,
    reflectors: LocalClusterReflectors,
    dirty_keys: Arc<DirtyKeys<VolumeControllerKey>>,
    events: EventRecorder,
    directory: PathBuf,
}

impl VolumeController {
    /// Registers listeners at the reflectors, which must not have been started yet. `directory` is for the
    /// volumes.
    pub fn new(client: Client, reflectors: &LocalClusterReflectors, directory: PathBuf) -> Self {
        let dirty_keys = Arc::new(DirtyKeys::default());
        let on_claim = Arc::clone(&dirty_keys);
        reflectors.claims.listen(
            move |change: &ReflectorObjectChange<'_, PersistentVolumeClaim>| {
                for claim in change.states() {
                    on_claim.enqueue(VolumeControllerKey::Claim(NamespacedName::of(claim)));
                    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
                    volume.into_iter().for_each(|reference| {
                        on_claim.enqueue(VolumeControllerKey::Volume(NamespacedName::new(
                            "", reference,
                        )))
                    });
                }
            },
        );
        let on_volume = Arc::clone(&dirty_keys);
        reflectors.volumes.listen(move |change: &ReflectorObjectChange<'_, PersistentVolume>| {
            for volume in change.states() {
                on_volume.enqueue(VolumeControllerKey::Volume(NamespacedName::of(volume)));
                let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
                let key = claim
                    .and_then(|claim| Some(NamespacedName::new(claim.namespace?, claim.name?)));
                key.into_iter().for_each(|key| on_volume.enqueue(VolumeControllerKey::Claim(key)));
            }
        });
        let (on_class, claims) = (Arc::clone(&dirty_keys), Arc::clone(&reflectors.claims));
        reflectors.classes.listen(move |_: &ReflectorObjectChange<'_, StorageClass>| {
            claims.all().iter().for_each(|reference| {
                on_class.enqueue(VolumeControllerKey::Claim(NamespacedName::of(&**reference)))
            });
        });
        // A deleted Pod releases its claims.
        let on_pod = Arc::clone(&dirty_keys);
        reflectors.pods.listen(move |change: &ReflectorObjectChange<'_, Pod>| {
            for pod in change.states() {
                crate::scheduler::claims_of(pod)
                    .for_each(|key| on_pod.enqueue(VolumeControllerKey::Claim(key)));
            }
        });
        let events = EventRecorder::new(client.clone(), NAME);
        Self { client, reflectors: reflectors.clone(), dirty_keys, events, directory }
    }

    /// Reconciles claims and volumes until it is told to stop.
    ///
    /// # Errors
    ///
    /// Returns an error if a reconcile panics.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ControllerPanicError> {
        let dirty_keys = Arc::clone(&self.dirty_keys);
        let worker = WorkLoop { name: NAME, dirty_keys, concurrency: CONCURRENCY, stop };
        worker
            .run(|subject| {
                let this = self.clone();
                async move { this.reconcile(&subject).await }
            })
            .await
    }

    async fn reconcile(
        &self,
        subject: &VolumeControllerKey,
    ) -> Result<Requeue, VolumeReconcileError> {
        match subject {
            VolumeControllerKey::Claim(key) => self.reconcile_claim(key).await?,
            VolumeControllerKey::Volume(key) => self.reconcile_volume(key).await?,
        }
        Ok(Requeue::AwaitChange)
    }

    async fn reconcile_claim(&self, key: &NamespacedName) -> Result<(), VolumeReconcileError> {
        let Some(claim) = self.reflectors.claims.get(key) else { return Ok(()) };
        let steps = claim::decide(&claim::ObservedClaim {
            claim: &claim,
            pods: &self.reflectors.pods.in_namespace(&key.namespace),
            classes: &self.reflectors.classes.all(),
            volumes: &self.reflectors.volumes.all(),
            directory: &self.directory,
        });
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &key.namespace);
        let writer = ApiWriter::new(api, NAME);
        for step in steps {
            let changed = match step {
                VolumeClaimStep::Change(patch) => writer.merge(&key.name, &patch).await?,
                VolumeClaimStep::Report(status) => {
                    writer.merge_status(&key.name, &json!({ "status": status })).await?
                }
                VolumeClaimStep::Provision(volume) => {
                    self.provision(&volume, key).await?;
                    None
                }
                VolumeClaimStep::RecordWarning { reason, message } => {
                    self.events.record(&*claim, EventSeverity::Warning, reason, &message).await;
                    None
                }
            };
            changed.into_iter().for_each(|changed| self.reflectors.claims.learn(changed));
        }
        Ok(())
    }

    async fn provision(
        &self,
        volume: &PersistentVolume,
        claim: &NamespacedName,
    ) -> Result<(), VolumeReconcileError> {
        let name = volume.metadata.name.clone().unwrap_or_default();
        let (directory, volume_name, owner) = (self.directory.clone(), name, claim.to_string());
        on_disk(volume_name, move |name| disk::make(&directory, name, &owner)).await?;
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let created = ApiWriter::new(api, NAME).create(volume).await?;
        created.into_iter().for_each(|created| self.reflectors.volumes.learn(created));
        Ok(())
    }

    /// Writes the phase of a volume, and removes a volume of this provisioner that is released.
    async fn reconcile_volume(&self, key: &NamespacedName) -> Result<(), VolumeReconcileError> {
        let Some(volume) = self.reflectors.volumes.get(key) else { return Ok(()) };
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let owner = reference.map(|reference| {
            NamespacedName::new(
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            )
        });
        let uid = reference.and_then(|reference| reference.uid.as_deref());
        let claim = owner.as_ref().and_then(|owner| self.reflectors.claims.get(owner));
        let has_claim =
            claim.is_some_and(|claim| uid.is_none() || claim.metadata.uid.as_deref() == uid);
        let phase = match (&owner, has_claim) {
            (None, _) => "Available",
            (Some(_), true) => "Bound",
            (Some(_), false) => "Released",
        };
        let writer = ApiWriter::new(Api::<PersistentVolume>::all(self.client.clone()), NAME);
        let before = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if before != Some(phase) {
            let patch = json!({"status": {"phase": phase}});
            let changed = writer.merge_status(&key.name, &patch).await?;
            changed.into_iter().for_each(|changed| self.reflectors.volumes.learn(changed));
        }
        let Some(owner) = owner.filter(|_| !has_claim && is_ours_to_delete(&volume)) else {
            return Ok(());
        };
        if self.claim_is_deleted(&owner, uid).await? {
            let (directory, name) = (self.directory.clone(), key.name.clone());
            on_disk(name, move |name| disk::remove(&directory, name)).await?;
            writer.delete(&key.name, volume.metadata.uid.as_deref()).await?;
        }
        Ok(())
    }

    /// Returns true if the claim no longer exists. It is read from the API server, because a reflector may be
    /// behind and a removed directory cannot be restored.
    async fn claim_is_deleted(
        &self,
        claim: &NamespacedName,
        uid: Option<&str>,
    ) -> Result<bool, VolumeReconcileError> {
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &claim.namespace);
        match api.get_metadata_opt(&claim.name).await {
            Ok(found) => Ok(found.is_none_or(|found| found.metadata.uid.as_deref() != uid)),
            Err(source) => {
                Err(VolumeReconcileError::Read { claim: claim.to_string(), source: source.into() })
            }
        }
    }
}

fn is_ours_to_delete(volume: &PersistentVolume) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    let maker = annotations.and_then(|annotations| annotations.get(PROVISIONED_BY));
    let policy =
        volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    maker.is_some_and(|maker| maker == PROVISIONER) && policy == Some("Delete")
}

/// Runs file operations on another thread, so that a slow disk blocks no controller.
async fn on_disk(
    volume: String,
    work: impl FnOnce(&str) -> std::io::Result<()> + Send + 'static,
) -> Result<(), VolumeReconcileError> {
    tokio::task::spawn_blocking(move || {
        work(&volume).map_err(|source| VolumeReconcileError::Disk { volume, source })
    })
    .await?
}
