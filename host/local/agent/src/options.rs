//! What an agent is told by whoever starts it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::images::ImageTable;

/// The Kubernetes node that an agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// The node's name, also its `kubernetes.io/hostname`.
    pub name: String,
    /// The node's address; Pods report it as their host's.
    pub address: Ipv4Addr,
    /// Further labels, such as `topology.kubernetes.io/zone`.
    pub labels: BTreeMap<String, String>,
    /// What may be requested on it, as Kubernetes quantities: `cpu`, `memory`, `pods`. The agent tells
    /// this to the scheduler and limits no process.
    pub capacity: BTreeMap<String, String>,
}

/// Hands out the addresses of Pods.
pub trait AddressPool: Send + Sync + Debug {
    /// An address for the Pod `uid`; the same one if it has one already. `wanted` is what the Pod's
    /// status says, for a Pod that outlived its agent. `None` if all are in use.
    fn allocate(&self, uid: &str, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr>;

    /// Takes back the address of the Pod `uid`, of which nothing runs any more.
    fn release(&self, uid: &str);
}

/// Names that a Pod resolves through its `/etc/hosts`.
pub trait HostAliasSource: Send + Sync + Debug {
    /// The lines (`ADDRESS NAME…`, each with a line end) for Pods of `namespace`, now and whenever they
    /// change. The Pod's own line and `localhost` are not among them: the agent adds those.
    fn lines(&self, namespace: &str) -> watch::Receiver<Arc<str>>;
}

/// All that an agent needs besides a client.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The node it is.
    pub node: NodeOptions,
    /// Its own directory (made with mode 0700): volumes, logs, container roots. No other agent may use it.
    pub directory: PathBuf,
    /// Which programs stand for which images.
    pub images: ImageTable,
    /// This executable, or another whose `container SPEC` calls [`container_main`](crate::container_main).
    pub container_program: PathBuf,
    /// The addresses of Pods.
    pub addresses: Arc<dyn AddressPool>,
    /// The names that Pods resolve.
    pub hosts: Arc<dyn HostAliasSource>,
    /// Whether Pods may mount directories of this machine.
    pub allow_host_path: bool,
    /// How long containers may take to end when the agent stops; then they are killed.
    pub stop_grace: Duration,
}
