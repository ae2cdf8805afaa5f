//! The connection pool.
//!
//! The key of a connection is its address with its credentials, so that a call after a change of the password
//! never uses a connection that was authenticated with the old one.
//!
//! Invariants:
//! - A call that exceeds its deadline fails and closes its connection.
//! - The number of connections per address is bounded; a call that finds none free waits within its deadline.
//! - A process that hangs does not use up connections of calls to other processes.
//! - No connection to a container that has ended stays in the pool.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tholepin_core::{
    RespReply,
    port::{InstanceMembers, MemberPod, RedisCredentials, ReplyRoom},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    RedisClientLimits,
    connection::{Connection, ConnectionError},
    ended_containers::EndedRedisContainers,
    lock::locked,
};

/// The member that a call goes to, with the credentials to use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedisCallTarget<'a> {
    /// The member.
    pub(crate) member: &'a MemberPod,
    /// The credentials to authenticate with.
    pub(crate) credentials: &'a RedisCredentials,
}

impl<'a> RedisCallTarget<'a> {
    /// Returns a target for each member.
    pub(crate) fn all(members: &'a InstanceMembers) -> impl Iterator<Item = Self> {
        let credentials = &members.credentials;
        members.members.iter().map(move |member| Self { member, credentials })
    }

    /// Returns the address of the member, if it runs and has one.
    pub(crate) fn address(&self) -> Result<SocketAddr, ConnectionError> {
        if !self.member.running {
            return Err(ConnectionError::NotRunning);
        }
        self.member.address.ok_or(ConnectionError::NoAddress)
    }
}

/// An address with the credentials to authenticate there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PoolKey {
    address: SocketAddr,
    user: Option<String>,
    password: Option<String>,
}

#[derive(Debug, Default)]
struct RedisPoolEntry {
    // The last one used is last in the list and is taken first, so that surplus connections age and are closed.
    idle: Vec<(Connection, Instant)>,
    // One permit per connection, whether idle or not.
    permits: Option<Arc<Semaphore>>,
    /// The container of the last call to this address.
    container_id: String,
}

impl RedisPoolEntry {
    /// Returns true if a call holds the semaphore. Then the entry must stay, because a new semaphore would allow
    /// more connections than the bound.
    fn is_used(&self) -> bool {
        self.permits.as_ref().is_some_and(|permits| 1 < Arc::strong_count(permits))
    }
}

/// The pool of connections of this host.
#[derive(Debug)]
pub(crate) struct ConnectionPool {
    limits: RedisClientLimits,
    entries: Mutex<BTreeMap<PoolKey, RedisPoolEntry>>,
    ended: EndedRedisContainers,
}

impl ConnectionPool {
    pub(crate) fn new(limits: RedisClientLimits) -> Self {
        Self { limits, entries: Mutex::default(), ended: EndedRedisContainers::new() }
    }

    pub(crate) const fn limits(&self) -> &RedisClientLimits {
        &self.limits
    }

    /// Records that a container has ended: calls to it fail, and its idle connections are closed.
    pub(crate) fn container_ended(&self, container_id: &str) {
        if container_id.is_empty() {
            return;
        }
        self.ended.add(container_id);
        let is_of_container = |entry: &RedisPoolEntry| entry.container_id == container_id;
        let entries = &mut *locked(&self.entries);
        entries
            .values_mut()
            .filter(|entry| is_of_container(entry))
            .for_each(|entry| entry.idle.clear());
        entries.retain(|_, entry| !is_of_container(entry) || entry.is_used());
    }

    /// Sends commands of the host itself to a member and reads one reply for each, all within `deadline`.
    pub(crate) async fn call(
        &self,
        target: RedisCallTarget<'_>,
        commands: &[Vec<Vec<u8>>],
        deadline: Duration,
    ) -> Result<Vec<RespReply>, ConnectionError> {
        self.call_within(target, commands, deadline, &ReplyRoom::new(usize::MAX)).await
    }

    /// Sends commands to a member and reads one reply for each, all within `deadline` and `room`.
    pub(crate) async fn call_within(
        &self,
        target: RedisCallTarget<'_>,
        commands: &[Vec<Vec<u8>>],
        deadline: Duration,
        room: &ReplyRoom,
    ) -> Result<Vec<RespReply>, ConnectionError> {
        let address = target.address()?;
        let key = PoolKey {
            address,
            user: target.credentials.user.clone(),
            password: target.credentials.password.clone(),
        };
        let permits = self.permits(&key, &target.member.container_id);
        let exchange = async {
            // The semaphore is never closed; without a permit, the call would only exceed the bound.
            let _permit = permits.acquire().await;
            let mut connection = match self.take(&key) {
                Some(connection) => connection,
                None => self.dial(address, target.credentials).await?,
            };
            let replies = connection.exchange_within(commands, room).await?;
            self.release(key, connection);
            Ok(replies)
        };
        // Dropping the exchange closes its connection.
        tokio::select! {
            biased;
            () = self.ended.wait(&target.member.container_id) => Err(ConnectionError::Ended),
            result = timeout(deadline, exchange) => {
                result.unwrap_or(Err(ConnectionError::Timeout(deadline.as_millis())))
            }
        }
    }

    /// Opens a connection within the dial deadline.
    pub(crate) async fn dial(
        &self,
        address: SocketAddr,
        credentials: &RedisCredentials,
    ) -> Result<Connection, ConnectionError> {
        let dial = self.limits.dial;
        let open = timeout(dial, Connection::open(address, credentials));
        open.await.unwrap_or(Err(ConnectionError::Timeout(dial.as_millis())))
    }

    fn permits(&self, key: &PoolKey, container_id: &str) -> Arc<Semaphore> {
        let mut entries = locked(&self.entries);
        let entry = entries.entry(key.clone()).or_default();
        if entry.container_id != container_id {
            container_id.clone_into(&mut entry.container_id);
        }
        let count = self.limits.connections_per_address;
        entry.permits.get_or_insert_with(|| Arc::new(Semaphore::new(count))).clone()
    }

    fn take(&self, key: &PoolKey) -> Option<Connection> {
        let mut entries = locked(&self.entries);
        let idle = &mut entries.get_mut(key)?.idle;
        while let Some((connection, since)) = idle.pop() {
            if since.elapsed() < self.limits.idle && connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    fn release(&self, key: PoolKey, connection: Connection) {
        let now = Instant::now();
        let mut entries = locked(&self.entries);
        entries.entry(key).or_default().idle.push((connection, now));
        let mut idle_left = self.limits.idle_connections;
        entries.retain(|_, entry| {
            entry.idle.retain(|(_, since)| now.duration_since(*since) < self.limits.idle);
            entry.idle.truncate(idle_left);
            idle_left -= entry.idle.len();
            entry.is_used() || !entry.idle.is_empty()
        });
    }
}
