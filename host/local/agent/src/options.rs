//! The options of an agent.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::images::ImageTable;

/// The Kubernetes node that an agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// The node's name, also its `kubernetes.io/hostname`.
    pub name: String,
    /// The node's address; Pods report it as their host's.
    pub address: Ipv4Addr,
    /// Further labels, such as `topology.kubernetes.io/zone`.
    pub labels: BTreeMap<String, String>,
    /// The capacity to report to the scheduler, as Kubernetes quantities: `cpu`, `memory`, `pods`. The agent
    /// itself limits no process.
    pub capacity: BTreeMap<String, String>,
}

/// Allocates the addresses of Pods.
pub trait PodAddressAllocator: Send + Sync + Debug {
    /// Returns the address of the Pod `uid`, which keeps the one that it has. `preferred` is the address in the
    /// Pod's status, for a Pod that an earlier agent ran. Returns `None` if all addresses are in use.
    fn allocate(&self, uid: &str, preferred: Option<Ipv4Addr>) -> Option<Ipv4Addr>;

    /// Releases the address of the Pod `uid`, of which no process runs any more.
    fn release(&self, uid: &str);
}

/// Names that a Pod resolves through its `/etc/hosts`.
pub trait HostAliasSource: Send + Sync + Debug {
    /// Returns the lines (`ADDRESS NAME…`, each with a line end) for Pods of `namespace`, now and whenever
    /// they change. The lines for the Pod itself and for `localhost` are not among them: the agent adds
    /// those.
    fn lines(&self, namespace: &str) -> watch::Receiver<Arc<str>>;
}

/// Everything that an agent needs besides a client.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The node that the agent runs.
    pub node: NodeOptions,
    /// The agent's own directory (created with mode 0700): volumes, logs, container roots. No other agent may
    /// use it.
    pub directory: PathBuf,
    /// Maps each image to the program that runs instead of it.
    pub images: ImageTable,
    /// This executable, or another one whose subcommand `container SPEC` calls
    /// [`container_main`](crate::container_main).
    pub container_program: PathBuf,
    /// The addresses of Pods.
    pub addresses: Arc<dyn PodAddressAllocator>,
    /// The names that Pods can resolve.
    pub hosts: Arc<dyn HostAliasSource>,
    /// Whether Pods may mount directories of this machine.
    pub allow_host_path: bool,
    /// How long containers may take to end when the agent stops. They are killed afterwards.
    pub stop_grace: Duration,
}
