//! The port to Redis.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::Value;
use tholepin_schema::{
    action::{Action, ActionOutcome},
    snapshot::{CredentialsFacts, Snapshot},
};

use crate::{BoxedFuture, CallError, RespReply, step::MemberCommandLine};

/// One process that belongs to an instance, as Kubernetes tells it.
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
    /// Facts about the Pod that the snapshot shows as they are (phase, readiness, restarts, limits,
    /// deletion).
    pub facts: Value,
}

/// The members of an instance with what is needed to talk to them.
#[derive(Clone, Debug)]
pub struct InstanceMembers {
    /// Names the instance in caches, locks and the ledger: the owner's uid and the group.
    pub instance: String,
    /// All Pods whose controllers lead to the owner, or that the ledger holds, in order of name; the selector
    /// leaves none out.
    pub members: Vec<MemberPod>,
    /// Pods that match the selector and belong elsewhere: shown, never written.
    pub strangers: Vec<String>,
    /// How to authenticate.
    pub credentials: RedisCredentials,
    /// How that compares with what the instance names.
    pub credentials_facts: CredentialsFacts,
}

/// How to authenticate; never printed.
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

/// What became of one action, and the commands that it came down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerformedAction {
    /// What became of it.
    pub outcome: ActionOutcome,
    /// What was decided to be sent; empty if all is as wanted already.
    pub commands: Vec<MemberCommandLine>,
}

/// Redis as the gate sees it. It performs; whether it may is the gate's question.
pub trait Redis: Send + Sync {
    /// Sends commands to one member, in order, on one connection. A timeout closes the connection;
    /// the commands may have run.
    fn pipeline<'a>(
        &'a self,
        members: &'a InstanceMembers,
        pod: &'a str,
        commands: &'a [Vec<Vec<u8>>],
        deadline: Duration,
    ) -> BoxedFuture<'a, Result<Vec<RespReply>, CallError>>;

    /// Looks at every member in one fan-out, 300 ms at most per member; a member that does not answer
    /// is in the snapshot with the reason. `settings` are shown beside the usual ones.
    fn observe<'a>(
        &'a self,
        members: &'a InstanceMembers,
        settings: &'a [String],
    ) -> BoxedFuture<'a, Snapshot>;

    /// Performs one wave of actions that the guards let pass, concurrently per node and in order on
    /// each, and gives one deed per action. Speaks to the addresses in `members` and to no other.
    fn act<'a>(
        &'a self,
        members: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>>;

    /// Decides what [`act`](Self::act) would send, by the same reads and the same rules, and sends
    /// nothing that changes anything. The outcomes are those of commands that work.
    fn decide<'a>(
        &'a self,
        members: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>>;

    /// Whether a dial to this address is refused: nobody listens there. A dial that is answered, or
    /// not answered in time, is not refused. Nothing is said on the connection.
    fn refuses(&self, address: SocketAddr) -> BoxedFuture<'_, bool>;

    /// Says that this container's process has ended: calls to it that are under way fail at once with
    /// [`CallError::Gone`].
    fn member_ended(&self, container_id: &str);

    /// Looks at each member once a second (settable) and reports, on the channel that the
    /// implementation was made with, when a role, an epoch, the slot map, the peers, a replica's link, a
    /// usual setting, or whether it holds keys differ from the last look, and at once when a connection is lost; at [`PollDetail::Whole`] it reports every look. One
    /// look serves all who watch the same instance; a second call for an instance replaces its members
    /// and the depth. Ends with [`unwatch`](Self::unwatch).
    ///
    /// # Errors
    ///
    /// Fails if too many instances are watched already.
    fn watch(&self, members: &InstanceMembers, depth: PollDetail<'_>) -> Result<(), CallError>;

    /// Ends the look at an instance, unless somebody has joined it.
    fn unwatch(&self, instance: &str);

    /// Joins the looks at an instance, whether it is watched or not: as long as somebody has joined they
    /// are whole and follow each other quickly (20 ms, settable), and the first begins at once. Members
    /// and settings are those of the last call. Ends when what is returned is dropped.
    ///
    /// # Errors
    ///
    /// Fails if too many instances are watched already.
    fn join(
        &self,
        members: &InstanceMembers,
        settings: &[String],
    ) -> Result<Box<dyn PollStream>, CallError>;
}

/// How much a look at an instance shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollDetail<'a> {
    /// How each member sees the nodes: enough to tell that something has changed.
    Changes,
    /// A snapshot.
    Whole {
        /// Settings to show beside the usual ones.
        settings: &'a [String],
    },
}

/// What the channel of [`Redis::watch`] reports.
#[derive(Clone, Debug, PartialEq)]
pub struct PollReport {
    /// The instance's name.
    pub instance: String,
    /// Whether something differs from the last look, or a connection was lost.
    pub changed: bool,
    /// What was seen, if the look was whole.
    pub snapshot: Option<Arc<Snapshot>>,
}

/// The looks at an instance that somebody has joined.
pub trait PollStream: Send {
    /// The next look that began after the last one given, or after the joining. May never come: the
    /// caller sets the deadline.
    fn next(&mut self) -> BoxedFuture<'_, Arc<Snapshot>>;
}
