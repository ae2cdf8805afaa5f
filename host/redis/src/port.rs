//! The implementation of the Redis port.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use tholepin_core::{
    BoxedFuture, CallError, RespReply,
    port::{
        Clock, InstanceMembers, PerformedAction, PollDetail, PollReport, Redis, RedisPollStream,
        ReplyRoom,
    },
};
use tholepin_schema::{action::Action, snapshot::Snapshot};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};

use crate::{
    RedisClientLimits,
    act::{self, RedisVerbStopPoint},
    observe,
    poll::RedisInstancePoller,
    pool::{ConnectionPool, RedisCallTarget},
};

/// The Redis port of a host; there is one per host.
pub struct RedisClient {
    pool: ConnectionPool,
    clock: Arc<dyn Clock>,
    poller: Arc<RedisInstancePoller>,
}

impl RedisClient {
    /// Creates a port that sends the reports of watched instances to `reports`.
    #[must_use]
    pub fn new(
        limits: RedisClientLimits,
        clock: Arc<dyn Clock>,
        reports: mpsc::Sender<PollReport>,
    ) -> Self {
        Self {
            pool: ConnectionPool::new(limits),
            clock,
            poller: Arc::new(RedisInstancePoller::new(reports)),
        }
    }

    /// Polls the watched instances until dropped. Must run once and concurrently with all calls; without it
    /// [`watch`](Redis::watch) and [`join`](Redis::join) never yield anything.
    pub async fn run_polling(&self) {
        self.poller.run(&self.pool, &*self.clock).await;
    }
}

impl Redis for RedisClient {
    fn pipeline<'a>(
        &'a self,
        members: &'a InstanceMembers,
        pod: &'a str,
        commands: &'a [Vec<Vec<u8>>],
        deadline: Duration,
        room: &'a ReplyRoom,
    ) -> BoxedFuture<'a, Result<Vec<RespReply>, CallError>> {
        Box::pin(async move {
            let mut targets = RedisCallTarget::all(members);
            let found = targets.find(|target| target.member.pod == pod);
            let target = found.ok_or_else(|| CallError::NotFound(format!("member `{pod}`")))?;
            let call = self.pool.call_within(target, commands, deadline, room).await;
            call.map_err(|failure| failure.into_call_error(pod))
        })
    }

    fn observe<'a>(
        &'a self,
        members: &'a InstanceMembers,
        settings: &'a [String],
    ) -> BoxedFuture<'a, Snapshot> {
        Box::pin(observe::observe(&self.pool, &*self.clock, members, settings))
    }

    fn act<'a>(
        &'a self,
        members: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        Box::pin(act::act(&self.pool, members, wave, RedisVerbStopPoint::Done))
    }

    fn decide<'a>(
        &'a self,
        members: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        Box::pin(act::act(&self.pool, members, wave, RedisVerbStopPoint::Decided))
    }

    fn refuses(&self, address: SocketAddr) -> BoxedFuture<'_, bool> {
        let deadline = self.pool.limits().dial;
        Box::pin(async move {
            let dial = timeout(deadline, TcpStream::connect(address)).await;
            let error = dial.ok().and_then(Result::err);
            error.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        })
    }

    fn container_ended(&self, container_id: &str) {
        self.pool.container_ended(container_id);
    }

    fn watch(&self, members: &InstanceMembers, depth: PollDetail<'_>) -> Result<(), CallError> {
        self.poller.add(members, depth, self.pool.limits())
    }

    fn join(
        &self,
        members: &InstanceMembers,
        settings: &[String],
    ) -> Result<Box<dyn RedisPollStream>, CallError> {
        self.poller.join(members, settings, self.pool.limits())
    }

    fn unwatch(&self, instance: &str) {
        self.poller.remove(instance);
    }
}
