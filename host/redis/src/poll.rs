//! Polls instances once a second, and reports changes and snapshots.
//!
//! One poll serves all watches of an instance and all its subscriptions. Only the last poll is kept. A report of
//! a change is a hint: the receiver must observe the instance to learn what changed.
//!
//! Invariants:
//! - Each member of a polled instance has a connection that only the poller uses, so that the end of its process
//!   is noticed immediately.
//! - A change that cannot be reported because the channel is full is detected again by the next poll.
//! - An instance is polled only while it is watched or has subscriptions.
//! - A poll reads the settings of the last watch and of the present subscriptions, and none of earlier ones.
//! - Each object and each plugin has its own share of polled instances, which no other can use.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{
    future::{join_all, select_all},
    stream::{FuturesUnordered, StreamExt},
};
use tholepin_core::{
    BoxedFuture, CallError, ReconcileKey, RespNode, RespReply,
    port::{Clock, InstanceMembers, PollDetail, PollReport, RedisPollStream},
};
use tholepin_schema::{
    instance::SETTINGS_SHOWN,
    primitives::NodeId,
    snapshot::{ClusterNodesRow, OpenSlot, Replication, Snapshot, UnreachableReason},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    RedisClientLimits,
    connection::{Connection, ConnectionError},
    error,
    lock::locked,
    observe::{
        MemberQuery, MemberQueryResult, ParsedMemberReply, build_snapshot, command, setting,
        setting_commands, unreachable,
    },
    parse::{cluster_nodes, info},
    pool::{ConnectionPool, RedisCallTarget},
};

/// The poller of all watched instances.
pub(crate) struct RedisInstancePoller {
    watched: Mutex<BTreeMap<String, PolledRedisInstance>>,
    added: Notify,
    reports: mpsc::Sender<PollReport>,
}

/// An instance that is watched or has subscriptions.
struct PolledRedisInstance {
    members: Arc<InstanceMembers>,
    /// The settings that the last watch reads in addition to `SETTINGS_SHOWN`.
    watched_settings: BTreeSet<String>,
    /// Those that the present subscriptions read.
    joined_settings: BTreeSet<String>,
    /// Whether every poll is reported, or only changes; absent while the instance is not watched.
    reported: Option<RedisPollReportFilter>,
    /// The number of subscriptions.
    subscriptions: usize,
    /// The snapshot of the last whole poll, and when that poll began.
    latest: watch::Sender<Option<(Instant, Arc<Snapshot>)>>,
    /// Notified by a new subscription, to start the next poll immediately.
    poll_now: Arc<Notify>,
}

/// Which polls of an instance are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RedisPollReportFilter {
    Changes,
    Everything,
}

/// The parameters of the next poll.
struct RedisPollParameters {
    members: Arc<InstanceMembers>,
    /// The query of a whole poll; absent for a poll that only detects changes.
    query: Option<MemberQuery>,
    reported: Option<RedisPollReportFilter>,
    interval: Duration,
    latest: watch::Sender<Option<(Instant, Arc<Snapshot>)>>,
    poll_now: Arc<Notify>,
}

/// The result of a poll, by Pod.
type PollResult = BTreeMap<String, Result<PolledMember, UnreachableReason>>;

/// The state of one member, compared with the previous poll to detect changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PolledMember {
    rows: BTreeMap<NodeId, ClusterNodesRow>,
    open_slots: Vec<OpenSlot>,
    /// The values of `SETTINGS_SHOWN`. Other settings are left out because only whole polls read them.
    settings: BTreeMap<String, String>,
    /// Whether the replication link is up; absent on a primary.
    link_up: Option<bool>,
    /// Whether the member has keys.
    has_keys: Option<bool>,
}

impl PolledRedisInstance {
    fn new(members: &InstanceMembers) -> Self {
        Self {
            members: Arc::new(members.clone()),
            watched_settings: BTreeSet::new(),
            joined_settings: BTreeSet::new(),
            reported: None,
            subscriptions: 0,
            latest: watch::Sender::new(None),
            poll_now: Arc::new(Notify::new()),
        }
    }

    /// Returns the query of a whole poll.
    fn query(&self) -> MemberQuery {
        let settings = self.watched_settings.union(&self.joined_settings);
        MemberQuery::new(&settings.cloned().collect::<Vec<_>>())
    }

    const fn is_needed(&self) -> bool {
        self.reported.is_some() || self.subscriptions != 0
    }
}

impl RedisInstancePoller {
    pub(crate) fn new(reports: mpsc::Sender<PollReport>) -> Self {
        Self { watched: Mutex::default(), added: Notify::new(), reports }
    }

    pub(crate) fn add(
        &self,
        members: &InstanceMembers,
        depth: PollDetail<'_>,
        limits: &RedisClientLimits,
    ) -> Result<(), CallError> {
        self.update(members, limits, |watched| match depth {
            PollDetail::Changes => {
                watched.reported = Some(RedisPollReportFilter::Changes);
                watched.watched_settings.clear();
            }
            PollDetail::Whole { settings } => {
                watched.reported = Some(RedisPollReportFilter::Everything);
                watched.watched_settings = settings.iter().cloned().collect();
            }
        })
    }

    pub(crate) fn join(
        self: &Arc<Self>,
        members: &InstanceMembers,
        settings: &[String],
        limits: &RedisClientLimits,
    ) -> Result<Box<dyn RedisPollStream>, CallError> {
        let mut latest = None;
        self.update(members, limits, |watched| {
            watched.subscriptions += 1;
            watched.joined_settings.extend(settings.iter().cloned());
            watched.poll_now.notify_one();
            latest = Some(watched.latest.subscribe());
        })?;
        let latest =
            latest.ok_or_else(|| CallError::Other("polling was not started".to_owned()))?;
        let instance = members.instance.clone();
        Ok(Box::new(PollSubscription {
            poller: self.clone(),
            instance,
            latest,
            after: Instant::now(),
        }))
    }

    fn update(
        &self,
        members: &InstanceMembers,
        limits: &RedisClientLimits,
        update: impl FnOnce(&mut PolledRedisInstance),
    ) -> Result<(), CallError> {
        let mut watched = locked(&self.watched);
        if !watched.contains_key(&members.instance) {
            check_shares(&watched, &members.owner, limits)?;
        }
        let entry = watched
            .entry(members.instance.clone())
            .or_insert_with(|| PolledRedisInstance::new(members));
        entry.members = Arc::new(members.clone());
        update(entry);
        self.added.notify_one();
        Ok(())
    }

    pub(crate) fn remove(&self, instance: &str) {
        self.reduce(instance, |watched| {
            watched.reported = None;
            watched.watched_settings.clear();
        });
    }

    fn reduce(&self, instance: &str, update: impl FnOnce(&mut PolledRedisInstance)) {
        let mut watched = locked(&self.watched);
        let Some(entry) = watched.get_mut(instance) else { return };
        update(entry);
        if !entry.is_needed() {
            watched.remove(instance);
        }
    }

    fn poll_spec(&self, instance: &str, pool: &ConnectionPool) -> Option<RedisPollParameters> {
        let watched = locked(&self.watched);
        let entry = watched.get(instance)?;
        let PolledRedisInstance { members, reported, subscriptions, latest, poll_now, .. } = entry;
        let is_whole = *subscriptions != 0 || *reported == Some(RedisPollReportFilter::Everything);
        let limits = pool.limits();
        Some(RedisPollParameters {
            members: members.clone(),
            query: is_whole.then(|| entry.query()),
            reported: *reported,
            interval: if *subscriptions == 0 {
                limits.watch_interval
            } else {
                limits.wait_interval
            },
            latest: latest.clone(),
            poll_now: poll_now.clone(),
        })
    }

    /// Polls every watched instance until dropped.
    pub(crate) async fn run(&self, pool: &ConnectionPool, clock: &dyn Clock) {
        let mut polls = FuturesUnordered::new();
        let mut polled = BTreeSet::new();
        loop {
            let watched: Vec<String> = locked(&self.watched).keys().cloned().collect();
            for instance in watched {
                if polled.insert(instance.clone()) {
                    polls.push(self.follow(pool, clock, instance));
                }
            }
            tokio::select! {
                () = self.added.notified() => {}
                Some(ended) = polls.next() => {
                    polled.remove(&ended);
                }
            }
        }
    }

    /// Polls one instance until it is neither watched nor subscribed, and returns its name.
    async fn follow(&self, pool: &ConnectionPool, clock: &dyn Clock, instance: String) -> String {
        let mut open = BTreeMap::new();
        let mut last: Option<PollResult> = None;
        let mut reported_at: Option<Instant> = None;
        while let Some(spec) = self.poll_spec(&instance, pool) {
            let began = Instant::now();
            let (result, snapshot) = poll(pool, clock, &spec, &mut open).await;
            let snapshot = snapshot.map(Arc::new);
            if let Some(snapshot) = &snapshot {
                spec.latest.send_replace(Some((began, snapshot.clone())));
            }
            let changed = last.as_ref().is_some_and(|last| *last != result);
            let report = PollReport { instance: instance.clone(), changed, snapshot };
            // A wait polls more often; reporting each of these polls would fill the queue that all instances share.
            let interval = pool.limits().watch_interval;
            let is_due = match spec.reported {
                None => false,
                Some(RedisPollReportFilter::Changes) => changed,
                Some(RedisPollReportFilter::Everything) => {
                    changed || reported_at.is_none_or(|at| interval <= began.duration_since(at))
                }
            };
            reported_at = if is_due { Some(began) } else { reported_at };
            let is_reported = !is_due || self.reports.try_send(report).is_ok();
            if !changed || is_reported {
                last = Some(result);
            }
            if wait_for_next_poll(&open, &spec).await {
                // Reports a change without waiting for the next poll, which then reads the new state.
                let hint = PollReport { instance: instance.clone(), changed: true, snapshot: None };
                if spec.reported.is_some() && self.reports.try_send(hint).is_err() {
                    tracing::warn!(
                        instance,
                        "cannot report a change: the queue of reports is full"
                    );
                }
                // A process that accepts connections only to close them must not cause polls without pause.
                sleep(spec.interval.min(pool.limits().watch_interval / 10)).await;
            }
        }
        instance
    }
}

/// Checks that one more instance fits the shares of its object and of its plugin.
fn check_shares(
    watched: &BTreeMap<String, PolledRedisInstance>,
    owner: &ReconcileKey,
    limits: &RedisClientLimits,
) -> Result<(), CallError> {
    let owners = || watched.values().map(|polled| &*polled.members.owner);
    let of_object = owners().filter(|other| *other == owner).count();
    let of_plugin = owners().filter(|other| other.plugin == owner.plugin).count();
    let (object_max, plugin_max) =
        (limits.watched_instances_per_object, limits.watched_instances_per_plugin);
    let share = if object_max <= of_object {
        format!("{object_max} instances of this object, and no object gets more; name fewer groups")
    } else if plugin_max <= of_plugin {
        let plugin = &owner.plugin;
        format!("{plugin_max} instances of the plugin `{plugin}`, and no plugin gets more")
    } else {
        return Ok(());
    };
    Err(CallError::Transient(format!("the host polls {share}")))
}

/// A subscription to the snapshots of an instance.
struct PollSubscription {
    poller: Arc<RedisInstancePoller>,
    instance: String,
    latest: watch::Receiver<Option<(Instant, Arc<Snapshot>)>>,
    /// When the poll of the last returned snapshot began, or when the subscription began.
    after: Instant,
}

impl RedisPollStream for PollSubscription {
    fn next(&mut self) -> BoxedFuture<'_, Arc<Snapshot>> {
        Box::pin(async move {
            let after = self.after;
            let is_newer = |latest: &Option<(Instant, Arc<Snapshot>)>| {
                latest.as_ref().is_some_and(|(began, _)| after < *began)
            };
            let latest =
                self.latest.wait_for(is_newer).await.ok().and_then(|latest| latest.clone());
            match latest {
                Some((began, snapshot)) => {
                    self.after = began;
                    snapshot
                }
                // The instance is no longer polled.
                None => std::future::pending().await,
            }
        })
    }
}

impl Drop for PollSubscription {
    fn drop(&mut self) {
        self.poller.reduce(&self.instance, |watched| {
            watched.subscriptions = watched.subscriptions.saturating_sub(1);
            if watched.subscriptions == 0 {
                watched.joined_settings.clear();
            }
        });
    }
}

/// Polls every member, each on its own connection.
async fn poll(
    pool: &ConnectionPool,
    clock: &dyn Clock,
    spec: &RedisPollParameters,
    open: &mut BTreeMap<String, PolledMemberConnection>,
) -> (PollResult, Option<Snapshot>) {
    let observed_at_ms = clock.now_ms();
    let change_commands = change_commands();
    let commands = spec.query.as_ref().map_or(&change_commands, |whole| &whole.commands);
    let answers = join_all(RedisCallTarget::all(&spec.members).map(|target| {
        let open_connection = open.remove(&target.member.pod);
        async move {
            let deadline = pool.limits().observe;
            let answer =
                timeout(deadline, query_member(pool, target, open_connection, commands)).await;
            let answer = answer.unwrap_or(Err(ConnectionError::Timeout(deadline.as_millis())));
            (target.member.pod.clone(), answer, clock.now_ms())
        }
    }));
    let answers = answers.await;
    // The remaining connections belong to Pods that no longer exist.
    open.clear();
    let mut result = PollResult::new();
    let mut replies_by_member = Vec::new();
    for (pod, answer, answered_at_ms) in answers {
        let replies = answer.map(|(open_connection, replies)| {
            open.insert(pod.clone(), open_connection);
            replies
        });
        let view = match &spec.query {
            None => {
                replies.map(|replies| read_polled_member(&replies)).map_err(|error| error.reason())
            }
            Some(query) => {
                let query_result = replies
                    .map_err(|failure| unreachable(&failure))
                    .and_then(|replies| query.read(answered_at_ms, &replies));
                let view = polled_member(&query_result);
                replies_by_member.push(query_result);
                view
            }
        };
        result.insert(pod, view);
    }
    let is_whole = spec.query.is_some();
    (result, is_whole.then(|| build_snapshot(observed_at_ms, &spec.members, replies_by_member)))
}

/// Returns the commands of a poll that only detects changes.
fn change_commands() -> Vec<Vec<Vec<u8>>> {
    let others =
        [command(&["INFO", "replication"]), command(&["DBSIZE"]), command(&["CLUSTER", "NODES"])];
    setting_commands(SETTINGS_SHOWN).chain(others).collect()
}

/// Parses the replies to [`change_commands`]. A node that is loading replies with errors; its view is empty, which
/// differs from that of a loaded node.
fn read_polled_member(replies: &[RespReply]) -> PolledMember {
    let Some((nodes, others)) = replies.split_last() else { return PolledMember::default() };
    let Some((keys, others)) = others.split_last() else { return PolledMember::default() };
    let Some((replication, settings)) = others.split_last() else { return PolledMember::default() };
    let has_keys = match keys.nodes.first() {
        Some(RespNode::Int(count)) => Some(*count != 0),
        _ => None,
    };
    let replication = error::text(replication).ok().and_then(|text| info(text).replication().ok());
    let nodes = error::text(nodes).ok().and_then(|text| cluster_nodes(text).ok());
    let settings = settings.iter().filter_map(setting).collect();
    nodes.map_or_else(PolledMember::default, |nodes| PolledMember {
        rows: nodes.rows,
        open_slots: nodes.open_slots,
        settings,
        link_up: replication.as_ref().and_then(link_up),
        has_keys,
    })
}

fn link_up(replication: &Replication) -> Option<bool> {
    replication.upstream.as_ref().map(|upstream| upstream.link_up)
}

fn polled_member(query_result: &MemberQueryResult) -> Result<PolledMember, UnreachableReason> {
    let ParsedMemberReply { facts, rows } = query_result.as_ref().map_err(|(reason, _)| *reason)?;
    let shown_settings =
        facts.settings.iter().filter(|(name, _)| SETTINGS_SHOWN.contains(&name.as_str()));
    let settings = shown_settings.map(|(name, value)| (name.clone(), value.clone())).collect();
    let link_up = facts.replication.as_ref().and_then(link_up);
    let has_keys = facts.keys.map(|keys| keys != 0);
    let (rows, open_slots) = (rows.clone(), facts.open_slots.clone());
    Ok(PolledMember { rows, open_slots, settings, link_up, has_keys })
}

struct PolledMemberConnection {
    address: SocketAddr,
    connection: Connection,
}

async fn query_member(
    pool: &ConnectionPool,
    target: RedisCallTarget<'_>,
    open_connection: Option<PolledMemberConnection>,
    commands: &[Vec<Vec<u8>>],
) -> Result<(PolledMemberConnection, Vec<RespReply>), ConnectionError> {
    let address = target.address()?;
    let open_connection =
        open_connection.filter(|open| open.address == address && open.connection.is_usable());
    let mut connection = match open_connection {
        Some(open) => open.connection,
        None => pool.dial(address, target.credentials).await?,
    };
    let replies = connection.exchange(commands).await?;
    Ok((PolledMemberConnection { address, connection }, replies))
}

/// Waits until the next poll is due. Returns true if it is due because a connection was lost, and false if the
/// interval has passed or a subscription was added.
async fn wait_for_next_poll(
    open: &BTreeMap<String, PolledMemberConnection>,
    spec: &RedisPollParameters,
) -> bool {
    let connection_lost = async {
        if open.is_empty() {
            std::future::pending::<()>().await;
        }
        select_all(open.values().map(|open| Box::pin(open.connection.closed_or_unexpected())))
            .await;
    };
    tokio::select! {
        () = connection_lost => true,
        () = sleep(spec.interval) => false,
        () = spec.poll_now.notified() => false,
    }
}

#[cfg(test)]
mod tests;
