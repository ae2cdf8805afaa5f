//! Creates the volumes of a Pod, and its own `/etc` files, on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, PersistentVolume, PersistentVolumeClaim, Pod, Volume, VolumeMount,
};
use kube::{Api, Client, ResourceExt};

use crate::config_source::ConfigSourceStates;
use crate::directory::PodDirectory;
use crate::downward::DownwardApiPlacement;
use crate::expand::expand;
use crate::rootfs::RootfsVolumeMount;
use crate::volume::{self, VolumeContent, VolumeContentError, is_inside, payload};

/// A volume that exists on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PreparedVolume {
    pub path: PathBuf,
    /// Whether containers cannot write to it, because its files follow a source.
    pub read_only: bool,
}

/// Why a volume cannot be provided.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumePreparationError {
    #[error(transparent)]
    Volume(#[from] VolumeContentError),
    #[error("volume `{volume}`: create it on disk")]
    Disk { volume: String, source: io::Error },
    #[error("volume `{volume}`: read the claim `{claim}`")]
    ReadClaim { volume: String, claim: String, source: Box<kube::Error> },
    #[error("volume `{volume}`: persistentvolumeclaim \"{claim}\" not found")]
    NoClaim { volume: String, claim: String },
    #[error("volume `{volume}`: persistentvolumeclaim \"{claim}\" is not bound")]
    ClaimNotBound { volume: String, claim: String },
    #[error("volume `{volume}`: read the persistent volume `{name}`")]
    ReadPersistentVolume { volume: String, name: String, source: Box<kube::Error> },
    #[error("volume `{volume}`: persistentvolume \"{name}\" is neither of type hostPath nor local")]
    NoDirectory { volume: String, name: String },
    #[error("volume `{0}` is a hostPath, which this local host does not allow")]
    HostPath(String),
    #[error("container mounts volume `{0}`, which the pod does not have")]
    NoVolume(String),
    #[error("subPath `{sub_path}` of volume `{volume}` leads out of the volume")]
    SubPathOutside { volume: String, sub_path: String },
    #[error("subPath `{sub_path}` of volume `{volume}`: create or open it")]
    SubPath { volume: String, sub_path: String, source: io::Error },
}

/// The inputs for creating volumes.
#[derive(Clone, Copy)]
pub(crate) struct PodVolumePreparer<'a> {
    pub client: &'a Client,
    pub pod: &'a Pod,
    pub placement: &'a DownwardApiPlacement,
    pub directory: &'a PodDirectory,
    pub allow_host_path: bool,
}

impl PodVolumePreparer<'_> {
    /// Creates all volumes of the Pod. Updates those that follow a source.
    pub(crate) async fn prepare(
        self,
        references: &ConfigSourceStates,
    ) -> Result<BTreeMap<String, PreparedVolume>, VolumePreparationError> {
        let mut prepared = BTreeMap::new();
        for volume in self.volumes() {
            prepared.insert(volume.name.clone(), self.prepare_volume(volume, references).await?);
        }
        Ok(prepared)
    }

    /// Updates the volumes that follow a ConfigMap, a Secret or the Pod itself. A volume whose source was
    /// deleted keeps its files, as in Kubernetes.
    pub(crate) fn refresh(self, references: &ConfigSourceStates) {
        for volume in self.volumes() {
            let Ok(VolumeContent::Files(files)) =
                volume::content(self.pod, self.placement, references, volume)
            else {
                continue;
            };
            let path = self.directory.volume(&volume.name);
            if let Err(error) = payload::write(&path, &files, &stamp()) {
                tracing::warn!(volume = volume.name, %error, "volume not updated");
            }
        }
    }

    fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
    }

    async fn prepare_volume(
        self,
        volume: &Volume,
        references: &ConfigSourceStates,
    ) -> Result<PreparedVolume, VolumePreparationError> {
        let path = self.directory.volume(&volume.name);
        let disk = |source| VolumePreparationError::Disk { volume: volume.name.clone(), source };
        let (path, read_only) = match volume::content(self.pod, self.placement, references, volume)?
        {
            VolumeContent::Empty => {
                fs::create_dir_all(&path).map_err(disk)?;
                // Any user of the container may write, as in Kubernetes.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(disk)?;
                (path, false)
            }
            VolumeContent::Files(files) => {
                payload::write(&path, &files, &stamp()).map_err(disk)?;
                (path, true)
            }
            VolumeContent::Claim(claim) => (self.claimed(&volume.name, &claim).await?, false),
            VolumeContent::HostPath(path) if self.allow_host_path => (path, false),
            VolumeContent::HostPath(_) => {
                return Err(VolumePreparationError::HostPath(volume.name.clone()));
            }
        };
        let path = path.canonicalize().map_err(disk)?;
        Ok(PreparedVolume { path, read_only })
    }

    /// Returns the directory of a claim: that of the `hostPath` or `local` volume to which it is bound.
    async fn claimed(self, volume: &str, claim: &str) -> Result<PathBuf, VolumePreparationError> {
        let (volume, claim) = (volume.to_owned(), claim.to_owned());
        let namespace = self.pod.namespace().unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let found = match claims.get_opt(&claim).await {
            Ok(Some(found)) => found,
            Ok(None) => return Err(VolumePreparationError::NoClaim { volume, claim }),
            Err(error) => {
                return Err(VolumePreparationError::ReadClaim {
                    volume,
                    claim,
                    source: Box::new(error),
                });
            }
        };
        let bound = found.status.and_then(|status| status.phase).as_deref() == Some("Bound");
        let name = found.spec.and_then(|spec| spec.volume_name).filter(|_| bound);
        let Some(name) = name else {
            return Err(VolumePreparationError::ClaimNotBound { volume, claim });
        };
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = match volumes.get(&name).await {
            Ok(found) => found,
            Err(error) => {
                let source = Box::new(error);
                return Err(VolumePreparationError::ReadPersistentVolume { volume, name, source });
            }
        };
        let spec = found.spec.unwrap_or_default();
        let host_path = spec.host_path.map(|host_path| host_path.path);
        let path = host_path.or_else(|| spec.local.map(|local| local.path)).map(PathBuf::from);
        let Some(path) = path else {
            return Err(VolumePreparationError::NoDirectory { volume, name });
        };
        fs::create_dir_all(&path)
            .map_err(|source| VolumePreparationError::Disk { volume, source })?;
        Ok(path)
    }
}

/// Returns a name for a generation of files. Names of later generations sort later.
fn stamp() -> String {
    format!("{:.9}", Timestamp::now())
}

/// Returns the volumes that `container` mounts. `env` expands `subPathExpr`.
pub(crate) fn mounts(
    container: &Container,
    volumes: &BTreeMap<String, PreparedVolume>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<RootfsVolumeMount>, VolumePreparationError> {
    let all = container.volume_mounts.iter().flatten();
    all.map(|mount| {
        let volume = volumes
            .get(&mount.name)
            .ok_or_else(|| VolumePreparationError::NoVolume(mount.name.clone()))?;
        Ok(RootfsVolumeMount {
            source: source(mount, volume, env)?,
            target: Path::new("/").join(&mount.mount_path),
            read_only: volume.read_only || mount.read_only == Some(true),
            // Containers can replace what is below the volume, but not the volume itself.
            no_symlinks: mount.sub_path.is_some() || mount.sub_path_expr.is_some(),
        })
    })
    .collect()
}

fn source(
    mount: &VolumeMount,
    volume: &PreparedVolume,
    env: &BTreeMap<String, String>,
) -> Result<PathBuf, VolumePreparationError> {
    let expression = mount.sub_path_expr.as_ref().map(|expression| expand(expression, env));
    let sub_path = expression.or_else(|| mount.sub_path.clone()).unwrap_or_default();
    if sub_path.is_empty() {
        return Ok(volume.path.clone());
    }
    let outside = || VolumePreparationError::SubPathOutside {
        volume: mount.name.clone(),
        sub_path: sub_path.clone(),
    };
    let disk = |source| VolumePreparationError::SubPath {
        volume: mount.name.clone(),
        sub_path: sub_path.clone(),
        source,
    };
    let path = volume.path.join(&sub_path);
    if !is_inside(Path::new(&sub_path)) {
        return Err(outside());
    }
    // A symlink in the volume must not lead out of it: neither the directory that is used, nor one that is created
    // on the way to it.
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(&path);
    if !existing.canonicalize().map_err(disk)?.starts_with(&volume.path) {
        return Err(outside());
    }
    if existing != path && !volume.read_only {
        fs::create_dir_all(&path).map_err(disk)?;
    }
    let path = path.canonicalize().map_err(disk)?;
    if path.starts_with(&volume.path) { Ok(path) } else { Err(outside()) }
}

/// Writes the Pod's `hosts` file and replaces the old one by a rename, so that a reader never sees half of
/// it.
pub(crate) fn write_hosts(
    pod: &Pod,
    placement: &DownwardApiPlacement,
    directory: &PodDirectory,
    names: &str,
) -> io::Result<()> {
    let spec = pod.spec.as_ref();
    let name = hostname(pod);
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref());
    let namespace = pod.namespace().unwrap_or_default();
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    let full =
        subdomain.map(|subdomain| format!("{name}.{subdomain}.{namespace}.svc.cluster.local "));
    text.push_str(&format!("{} {}{name}\n", placement.pod_ip, full.unwrap_or_default()));
    for alias in spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        let names = alias.hostnames.clone().unwrap_or_default().join(" ");
        text.push_str(&format!("{} {names}\n", alias.ip));
    }
    text.push_str(names);
    let files = directory.files();
    fs::create_dir_all(&files)?;
    let next = files.join(".hosts");
    fs::write(&next, text)?;
    fs::rename(next, files.join("hosts"))
}

/// Writes the Pod's files that do not change.
pub(crate) fn write_pod_files(pod: &Pod, directory: &PodDirectory) -> io::Result<()> {
    let files = directory.files();
    fs::create_dir_all(&files)?;
    fs::write(files.join("hostname"), format!("{}\n", hostname(pod)))?;
    let resolv = fs::read("/etc/resolv.conf").unwrap_or_default();
    fs::write(files.join("resolv.conf"), resolv)
}

/// Returns the host name inside the container: `spec.hostname`, or else the Pod's name, cut to the maximum
/// length of a host name.
pub(crate) fn hostname(pod: &Pod) -> String {
    const HOSTNAME_CHARS_MAX: usize = 63;
    let named = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let name = named.filter(|name| !name.is_empty()).unwrap_or_else(|| pod.name_any());
    name.chars()
        .take(HOSTNAME_CHARS_MAX)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::downward;

    fn prepared(path: &Path, read_only: bool) -> BTreeMap<String, PreparedVolume> {
        let path = path.canonicalize().unwrap();
        BTreeMap::from([("v".to_owned(), PreparedVolume { path, read_only })])
    }

    fn container(mount: serde_json::Value) -> Container {
        serde_json::from_value(json!({"name": "c", "volumeMounts": [mount]})).unwrap()
    }

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let directory = tempfile::tempdir().unwrap();
        let volumes = prepared(directory.path(), false);
        let machine = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(machine.path(), directory.path().join("out")).unwrap();
        fs::create_dir(machine.path().join("etc")).unwrap();
        let env = BTreeMap::from([("POD".to_owned(), "a-0".to_owned())]);
        let cases = [
            (json!({"subPath": "x/y"}), Some("x/y")),
            (json!({"subPathExpr": "$(POD)"}), Some("a-0")),
            (json!({"subPath": "../x"}), None),
            (json!({"subPath": "/etc"}), None),
            (json!({"subPath": "out/etc"}), None),
            (json!({"subPath": "out/new/directory"}), None),
        ];
        for (mut mount, expected) in cases {
            mount["name"] = "v".into();
            mount["mountPath"] = "/data".into();
            let text = mount.to_string();
            let found = mounts(&container(mount), &volumes, &env).ok();
            let source = found.map(|mounts| mounts[0].source.clone());
            assert_eq!(source, expected.map(|path| volumes["v"].path.join(path)), "{text}");
            assert!(!machine.path().join("new").exists(), "{text} created a directory outside");
        }
    }

    #[test]
    fn a_mount_of_an_unknown_volume_is_named() {
        let container = container(json!({"name": "w", "mountPath": "/w"}));
        let error = mounts(&container, &BTreeMap::new(), &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("`w`"), "{error}");
    }

    #[test]
    fn hosts_contain_the_pod_its_aliases_and_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let pod_directory = PodDirectory::new(directory.path(), "u1");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a-0", "namespace": "ns"},
            "spec": {"hostname": "a-0", "subdomain": "a", "containers": [],
                "hostAliases": [{"ip": "127.0.0.9", "hostnames": ["x", "y"]}]}}))
        .unwrap();
        let placement = downward::tests::placement();
        write_hosts(&pod, &placement, &pod_directory, "127.23.1.8 b-0.b\n").unwrap();
        let text = fs::read_to_string(pod_directory.files().join("hosts")).unwrap();
        let expected = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n\
            127.23.1.7 a-0.a.ns.svc.cluster.local a-0\n127.0.0.9 x y\n127.23.1.8 b-0.b\n";
        assert_eq!(text, expected);
    }
}
