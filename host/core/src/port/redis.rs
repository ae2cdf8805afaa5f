//! The port to Redis.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tholepin_schema::{
    action::{Action, ActionOutcome},
    snapshot::{CredentialsState, Snapshot},
};

use crate::{BoxedFuture, CallError, ReconcileKey, RespReply, step::RedisCliCommand};

/// How many bytes of the host's memory the replies to one call may take, shared by its pipelines.
#[derive(Debug)]
pub struct ReplyRoom {
    bytes_max: usize,
    left: AtomicUsize,
}

impl ReplyRoom {
    /// What one value of a reply takes besides its bytes.
    pub const NODE_BYTES: usize = 64;

    /// Creates the room of a call.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, left: AtomicUsize::new(bytes_max) }
    }

    /// Takes bytes of the room. Returns false if fewer are left.
    pub fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Returns the bytes of the whole room.
    #[must_use]
    pub const fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

/// One process that belongs to an instance, as Kubernetes reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPod {
    /// The Pod's name: how actions and snapshots name the member.
    pub pod: String,
    /// The Pod's uid.
    pub pod_uid: String,
    /// The Kubernetes node it runs on.
    pub kube_node: String,
    /// The container's id, new at each start; empty while it has none.
    pub container_id: String,
    /// Whether the container runs.
    pub running: bool,
    /// Where it listens; absent while the Pod has no address.
    pub address: Option<SocketAddr>,
    /// Facts about the Pod that the snapshot contains unchanged (phase, readiness, restarts, limits,
    /// deletion).
    pub kubernetes: Value,
}

/// The members of an instance with the credentials for their connections.
#[derive(Clone, Debug)]
pub struct InstanceMembers {
    /// The name of the instance in caches, locks and the ledger: the owner's uid and the group.
    pub instance: String,
    /// The plugin and the object on whose behalf it is used: polls are bounded for each.
    pub owner: Arc<ReconcileKey>,
    /// All Pods whose chain of controllers ends at the owner, or that the ledger holds, in order of name; also
    /// those that the selector does not match.
    pub members: Vec<MemberPod>,
    /// Pods that match the selector and have another owner: in the snapshot, never written.
    pub strangers: Vec<String>,
    /// The credentials.
    pub credentials: RedisCredentials,
    /// How they compare with those that the instance names.
    pub credentials_facts: CredentialsState,
}

/// The credentials of a connection; the password is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RedisCredentials {
    /// The ACL user; `default` if absent.
    pub user: Option<String>,
    /// The password; none if absent.
    pub password: Option<String>,
}

impl fmt::Debug for RedisCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .finish()
    }
}

/// The result of one action, and its commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerformedAction {
    /// The outcome.
    pub outcome: ActionOutcome,
    /// The commands that were sent or would be sent; empty if the state is as requested already.
    pub commands: Vec<RedisCliCommand>,
}

/// Redis for the gate. It performs every request; the gate decides which are allowed.
pub trait Redis: Send + Sync {
    /// Sends commands to one member, in order, on one connection. A timeout closes the connection;
    /// the commands may have run. So does exceeding `room`, which fails with [`CallError::Invalid`].
    fn pipeline<'a>(
        &'a self,
        members: &'a InstanceMembers,
        pod: &'a str,
        commands: &'a [Vec<Vec<u8>>],
        deadline: Duration,
        room: &'a ReplyRoom,
    ) -> BoxedFuture<'a, Result<Vec<RespReply>, CallError>>;

    /// Reads every member concurrently, at most 300 ms per member; a member that does not answer is in the snapshot
    /// with the reason. `settings` are read besides the default ones.
    fn observe<'a>(
        &'a self,
        members: &'a InstanceMembers,
        settings: &'a [String],
    ) -> BoxedFuture<'a, Snapshot>;

    /// Performs one wave of actions that the guards allowed: concurrently for different nodes, in order for each.
    /// Returns one result per action. Connects to the addresses in `members` only.
    fn act<'a>(
        &'a self,
        members: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>>;

    /// Decides what [`act`](Self::act) would send, by the same reads and the same rules, and sends only reads. The
    /// outcomes assume that the commands succeed.
    fn decide<'a>(
        &'a self,
        members: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>>;

    /// Returns true if a dial to this address is refused, so that no process listens there. A dial that is accepted, or
    /// not answered in time, is not refused. Nothing is sent on the connection.
    fn refuses(&self, address: SocketAddr) -> BoxedFuture<'_, bool>;

    /// Notifies that this container has ended, and its process with it: running calls to it fail immediately with
    /// [`CallError::Gone`].
    fn container_ended(&self, container_id: &str);

    /// Polls each member once a second (settable) until [`unwatch`](Self::unwatch), and reports on the channel that the
    /// implementation was created with: when a role, an epoch, the slot map, the peers, a replica's link, a default
    /// setting, or whether it holds keys differ from the last poll, and immediately when a connection is lost. With
    /// [`PollDetail::Whole`] it reports every poll. One poll serves all watchers of an instance; a second call for an
    /// instance replaces its members and the detail.
    ///
    /// # Errors
    ///
    /// Fails if the object or the plugin has its share of polled instances already. Others cannot use that share up.
    fn watch(&self, members: &InstanceMembers, detail: PollDetail<'_>) -> Result<(), CallError>;

    /// Ends the polling of an instance, unless a stream of [`join`](Self::join) exists.
    fn unwatch(&self, instance: &str);

    /// Returns a stream of the polls of an instance, also of one that is not watched. As long as a stream exists, each
    /// poll reads a whole snapshot, the pause between two polls is short (20 ms, settable), and the first begins
    /// immediately. Members and settings are those of the last call. Dropping the stream ends this.
    ///
    /// # Errors
    ///
    /// Fails if the object or the plugin has its share of polled instances already. Others cannot use that share up.
    fn join(
        &self,
        members: &InstanceMembers,
        settings: &[String],
    ) -> Result<Box<dyn RedisPollStream>, CallError>;
}

/// How much a poll of an instance reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollDetail<'a> {
    /// How each member sees the nodes: enough to detect a change.
    Changes,
    /// A snapshot.
    Whole {
        /// Settings to read besides the default ones.
        settings: &'a [String],
    },
}

/// A report on the channel of [`Redis::watch`].
#[derive(Clone, Debug, PartialEq)]
pub struct PollReport {
    /// The instance's name.
    pub instance: String,
    /// Whether something differs from the last poll, or a connection was lost.
    pub changed: bool,
    /// The snapshot, with [`PollDetail::Whole`].
    pub snapshot: Option<Arc<Snapshot>>,
}

/// A stream of the polls of one instance.
pub trait RedisPollStream: Send {
    /// Returns the next poll that began after the last returned one, or after the stream was created. May never return:
    /// the caller sets the deadline.
    fn next(&mut self) -> BoxedFuture<'_, Arc<Snapshot>>;
}
