//! Real Redis servers as members of an instance.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tholepin_core::{
    ReconcileKey,
    port::{
        Clock, InstanceMembers, MemberPod, PerformedAction, PollReport, Redis, RedisCredentials,
        ReplyRoom,
    },
};
use tholepin_redis::{RedisClient, RedisClientLimits};
use tholepin_schema::{
    action::{Action, ActionOutcome, Verb},
    manifest::KindName,
    primitives::{ConfigEpoch, NodeId, Slot, SlotRange},
    snapshot::Snapshot,
};
use tokio::sync::mpsc;

pub(crate) const PORT: u16 = 7000;

/// Returns the object with this name as the owner of an instance.
pub(crate) fn owner(plugin: &str, name: &str) -> Arc<ReconcileKey> {
    let kind = KindName { api_version: "a/v1".to_owned(), kind: "K".to_owned() };
    let (plugin, namespace) = (plugin.parse().unwrap(), "n".to_owned());
    Arc::new(ReconcileKey { plugin, kind, namespace, name: name.to_owned() })
}

pub(crate) const NODE_TIMEOUT_MS: u64 = 1000;

/// A real server; dropping it kills the process.
pub(crate) struct TestServer {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl TestServer {
    fn start(address: SocketAddr, cluster: bool, password: Option<&str>) -> Self {
        let directory = TempDir::new().unwrap();
        let ip = address.ip().to_string();
        let mut command = Command::new("redis-server");
        command.current_dir(directory.path()).stdout(Stdio::null());
        let port = PORT.to_string();
        let timeout = NODE_TIMEOUT_MS.to_string();
        let mut arguments =
            vec!["--port", &port, "--bind", &ip, "--save", "", "--appendonly", "no"];
        if cluster {
            arguments.extend(["--cluster-enabled", "yes", "--cluster-node-timeout", &timeout]);
            // Without these two the peers see 127.0.0.1 and the handshake never ends.
            arguments.extend(["--cluster-announce-ip", &ip, "--bind-source-addr", &ip]);
            arguments.extend(["--cluster-allow-replica-migration", "no"]);
            arguments.extend(["--repl-diskless-sync-delay", "0"]);
        }
        if let Some(password) = password {
            arguments.extend(["--requirepass", password, "--masterauth", password]);
        }
        let child = command.args(arguments).spawn().expect("redis-server must be installed");
        let server = Self { child, address, _directory: directory };
        until("a server listens", || std::net::TcpStream::connect(address).is_ok());
        server
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The servers of one instance, and a port for them.
pub(crate) struct TestServers {
    pub(crate) servers: Vec<TestServer>,
    pub(crate) members: InstanceMembers,
    pub(crate) port: Arc<RedisClient>,
    pub(crate) changes: mpsc::Receiver<PollReport>,
}

struct WallClock;

impl Clock for WallClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        since.as_millis().try_into().unwrap()
    }
}

impl TestServers {
    pub(crate) fn start(count: u8, cluster: bool, password: Option<&str>) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let net = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = |index: u8| SocketAddr::from(([127, 26, net, index + 1], PORT));
        let servers = (0..count).map(|index| TestServer::start(address(index), cluster, password));
        let servers: Vec<TestServer> = servers.collect();
        let members = servers.iter().enumerate().map(|(index, server)| MemberPod {
            pod: format!("pod-{index}"),
            pod_uid: format!("uid-{index}"),
            kube_node: "node".to_owned(),
            container_id: format!("container-{index}"),
            running: true,
            address: Some(server.address),
            kubernetes: serde_json::json!({"ready": true, "deleting": false}),
        });
        let members = InstanceMembers {
            instance: format!("instance-{net}"),
            owner: owner("p", "mine"),
            members: members.collect(),
            strangers: Vec::new(),
            credentials: RedisCredentials { user: None, password: password.map(str::to_owned) },
            credentials_facts: Default::default(),
        };
        let (changed, changes) = mpsc::channel(64);
        let limits = RedisClientLimits {
            watch_interval: Duration::from_millis(200),
            ..RedisClientLimits::default()
        };
        let port = Arc::new(RedisClient::new(limits, Arc::new(WallClock), changed));
        Self { servers, members, port, changes }
    }

    /// Starts a cluster of three primaries and three replicas; Pod 3 replicates Pod 0, and so on.
    pub(crate) async fn cluster() -> Self {
        let fleet = Self::start(6, true, Some("secret"));
        fleet.form(3).await;
        fleet
    }

    pub(crate) async fn form(&self, primaries: usize) {
        let count = self.members.members.len();
        let all = 0..count;
        let ranges = even_ranges(primaries);
        let mut verbs: Vec<Verb> = all
            .clone()
            .map(|index| Verb::SetConfigEpoch {
                pod: pod(index),
                epoch: ConfigEpoch(index as u64 + 1),
            })
            .collect();
        verbs.extend(
            ranges.iter().enumerate().map(|(index, range)| Verb::AssignSlots {
                pod: pod(index),
                slots: (*range).into(),
            }),
        );
        self.done(verbs).await;
        let pairs = all.clone().flat_map(|a| (a + 1..count).map(move |b| (a, b)));
        self.done(pairs.map(|(a, b)| Verb::Meet { pod: pod(a), with: pod(b) }).collect()).await;
        let met = |snapshot: &Snapshot| {
            snapshot.members.iter().all(|member| {
                let rows = snapshot.seen_by(member).unwrap();
                rows.len() == count && rows.values().all(|row| row.flags.is_empty())
            })
        };
        let snapshot = self.see("all have met", met).await;
        let ids: Vec<NodeId> = (0..primaries).map(|index| node(&snapshot, index)).collect();
        let replicas = all.skip(primaries);
        self.done(
            replicas
                .map(|index| Verb::Replicate { pod: pod(index), primary: ids[index % primaries] })
                .collect(),
        )
        .await;
        self.see("the cluster is healthy", |snapshot| {
            let is_ok = |member: &tholepin_schema::snapshot::Member| {
                member.facts().and_then(|facts| facts.cluster.as_ref()).is_some_and(|all| all.ok)
            };
            snapshot.members.iter().all(is_ok)
                && snapshot.is_agreed()
                && (primaries..count).all(|index| snapshot.check_in_sync(&pod(index), 0).is_ok())
        })
        .await;
    }

    /// Performs verbs, and panics unless all of them are done.
    pub(crate) async fn done(&self, verbs: Vec<Verb>) {
        for (verb, outcome) in verbs.clone().into_iter().zip(self.act(verbs).await) {
            assert!(outcome.is_done(), "{verb:?}: {outcome:?}");
        }
    }

    pub(crate) async fn act(&self, verbs: Vec<Verb>) -> Vec<ActionOutcome> {
        self.perform(verbs).await.into_iter().map(|result| result.outcome).collect()
    }

    /// Performs verbs, and returns their outcomes and commands.
    pub(crate) async fn perform(&self, verbs: Vec<Verb>) -> Vec<PerformedAction> {
        let wave: Vec<Action> = verbs.into_iter().map(Action::from).collect();
        let results = self.port.act(&self.members, &wave).await;
        assert_eq!(results.len(), wave.len());
        results
    }

    /// Decides the commands of verbs without sending them.
    pub(crate) async fn decide(&self, verbs: Vec<Verb>) -> Vec<PerformedAction> {
        let wave: Vec<Action> = verbs.into_iter().map(Action::from).collect();
        self.port.decide(&self.members, &wave).await
    }

    pub(crate) async fn observe(&self) -> Snapshot {
        self.port.observe(&self.members, &[]).await
    }

    /// Observes until `is_so` holds, and panics after 15 s.
    pub(crate) async fn see(&self, what: &str, is_so: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let snapshot = self.observe().await;
            if is_so(&snapshot) {
                return snapshot;
            }
            assert!(Instant::now() < until, "not seen: {what}: {snapshot:#?}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn pipeline(
        &self,
        index: usize,
        lines: &[&str],
    ) -> Result<Vec<tholepin_core::RespReply>, tholepin_core::CallError> {
        let commands: Vec<_> = lines.iter().map(|line| command(line)).collect();
        self.port
            .pipeline(&self.members, &pod(index), &commands, Duration::from_secs(2), &room())
            .await
    }
}

/// Returns room for every reply of a test.
pub(crate) const fn room() -> ReplyRoom {
    ReplyRoom::new(1 << 20)
}

pub(crate) fn even_ranges(count: usize) -> Vec<SlotRange> {
    let count = u16::try_from(count).unwrap();
    let edge = |index: u16| index * (Slot::COUNT / count);
    let end = |index: u16| if index + 1 == count { Slot::COUNT } else { edge(index + 1) };
    let slot = |number| Slot::new(number).unwrap();
    (0..count)
        .map(|index| SlotRange::new(slot(edge(index)), slot(end(index) - 1)).unwrap())
        .collect()
}

pub(crate) fn pod(index: usize) -> String {
    format!("pod-{index}")
}

pub(crate) fn node(snapshot: &Snapshot, index: usize) -> NodeId {
    snapshot.member(&pod(index)).unwrap().node().unwrap()
}

pub(crate) fn command(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|argument| argument.as_bytes().to_vec()).collect()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < until, "not seen: {what}");
        std::thread::yield_now();
    }
}
