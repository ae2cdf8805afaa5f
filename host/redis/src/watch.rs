//! Looks at instances once a second and says which of them changed.
//!
//! One look serves all who watch an instance. Nothing is decided here and nothing is kept but the last
//! look: a change is a hint to look properly.
//!
//! Invariants:
//! - One connection per member of a watched instance, of its own, so that its end is seen at once.
//! - A change that cannot be reported, because the channel is full, is found again at the next look.

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
use tholepin_core::{CallError, port::Members};
use tholepin_schema::{
    snapshot::{NodeRow, OpenSlot, UnreachableReason},
    word::NodeId,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};

use crate::{
    connection::{Connection, Failure},
    error,
    observe::command,
    parse::cluster_nodes,
    pool::{Pool, Target, locked},
};

/// The instances that are watched.
pub(crate) struct Watches {
    watched: Mutex<BTreeMap<String, Arc<Members>>>,
    added: Notify,
    changed: mpsc::Sender<String>,
}

/// What a look saw, by Pod.
type Sight = BTreeMap<String, Result<View, UnreachableReason>>;

/// How one member sees all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    rows: BTreeMap<NodeId, NodeRow>,
    open_slots: Vec<OpenSlot>,
}

impl Watches {
    pub(crate) fn new(changed: mpsc::Sender<String>) -> Self {
        Self { watched: Mutex::default(), added: Notify::new(), changed }
    }

    pub(crate) fn add(&self, members: &Members, max: usize) -> Result<(), CallError> {
        let mut watched = locked(&self.watched);
        if max <= watched.len() && !watched.contains_key(&members.instance) {
            let text = format!("{max} instances are watched already");
            return Err(CallError::Transient(text));
        }
        watched.insert(members.instance.clone(), Arc::new(members.clone()));
        self.added.notify_one();
        Ok(())
    }

    pub(crate) fn remove(&self, instance: &str) {
        locked(&self.watched).remove(instance);
    }

    fn members(&self, instance: &str) -> Option<Arc<Members>> {
        locked(&self.watched).get(instance).cloned()
    }

    /// Follows every watched instance until dropped.
    pub(crate) async fn run(&self, pool: &Pool) {
        let mut followed = FuturesUnordered::new();
        let mut names = BTreeSet::new();
        loop {
            let watched: Vec<String> = locked(&self.watched).keys().cloned().collect();
            for instance in watched {
                if names.insert(instance.clone()) {
                    followed.push(self.follow(pool, instance));
                }
            }
            tokio::select! {
                () = self.added.notified() => {}
                Some(ended) = followed.next() => {
                    names.remove(&ended);
                }
            }
        }
    }

    /// Follows one instance until nobody watches it, and gives its name back.
    async fn follow(&self, pool: &Pool, instance: String) -> String {
        let mut open = BTreeMap::new();
        let mut last: Option<Sight> = None;
        while let Some(members) = self.members(&instance) {
            let sight = look(pool, &members, &mut open).await;
            let is_changed = last.as_ref().is_some_and(|last| *last != sight);
            if !is_changed || self.changed.try_send(instance.clone()).is_ok() {
                last = Some(sight);
            }
            if disturbed(&open, pool.limits().watch_interval).await {
                // The look that follows says what became of it; the hint need not wait for that.
                if self.changed.try_send(instance.clone()).is_err() {
                    tracing::warn!(instance, "a change could not be reported: too many wait");
                }
                // A process that takes connections only to close them must not be asked in a circle.
                sleep(pool.limits().watch_interval / 10).await;
            }
        }
        instance
    }
}

/// Asks every member that runs for its view, each on its own connection.
async fn look(pool: &Pool, members: &Members, open: &mut BTreeMap<String, Open>) -> Sight {
    let asked = join_all(Target::all(members).map(|target| {
        let kept = open.remove(&target.member.pod);
        async move {
            let seen = ask(pool, target, kept);
            let deadline = pool.limits().observe;
            let late = || Err(Failure::Timeout(deadline.as_millis()));
            (target.member.pod.clone(), timeout(deadline, seen).await.unwrap_or_else(|_| late()))
        }
    }));
    let mut sight = Sight::new();
    // What is left belongs to Pods that are gone.
    let asked = asked.await;
    open.clear();
    for (pod, result) in asked {
        let view = result.map_err(|failure| failure.reason()).map(|(kept, view)| {
            open.insert(pod.clone(), kept);
            view
        });
        sight.insert(pod, view);
    }
    sight
}

struct Open {
    address: SocketAddr,
    connection: Connection,
}

async fn ask(pool: &Pool, target: Target<'_>, kept: Option<Open>) -> Result<(Open, View), Failure> {
    let address = target.address()?;
    let kept = kept.filter(|kept| kept.address == address && kept.connection.is_usable());
    let mut connection = match kept {
        Some(kept) => kept.connection,
        None => pool.dial(address, target.credentials).await?,
    };
    let replies = connection.exchange(&[command(&["CLUSTER", "NODES"])]).await?;
    let reply = replies.into_iter().next().unwrap_or_default();
    // A node that is loading says so instead: no view, which differs from one.
    let nodes = error::text(&reply).ok().and_then(|text| cluster_nodes(text).ok());
    let view = nodes.map_or_else(
        || View { rows: BTreeMap::new(), open_slots: Vec::new() },
        |nodes| View { rows: nodes.rows, open_slots: nodes.open_slots },
    );
    Ok((Open { address, connection }, view))
}

/// Waits for the next look; says whether a connection was lost meanwhile.
async fn disturbed(open: &BTreeMap<String, Open>, interval: Duration) -> bool {
    if open.is_empty() {
        sleep(interval).await;
        return false;
    }
    let lost = open.values().map(|open| Box::pin(open.connection.disturbed()));
    timeout(interval, select_all(lost)).await.is_ok()
}
