//! Starts the node agents of a local host, and serves their logs to the API server.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use kube::Client;
use tholepin_agent::{AgentOptions, ImageTable, LogError, NodeOptions, PodLogFiles};
use tholepin_apiserver as api;

use crate::addresses::BlockPodAddressAllocator;
use crate::hosts_file_names::NamespaceHostsFileLines;
use crate::task_group::TaskGroup;

/// The capacity that each node reports to the scheduler. The agent itself limits no process.
const CAPACITY: [(&str, &str); 3] = [("cpu", "16"), ("memory", "32Gi"), ("pods", "110")];
/// Zones are named by the 26 letters.
const ZONES_MAX: u16 = 26;

/// The inputs that all agents share.
pub(crate) struct AgentSetup {
    pub(crate) client: Client,
    pub(crate) directory: PathBuf,
    pub(crate) block: u8,
    pub(crate) images: ImageTable,
    pub(crate) container_program: PathBuf,
    pub(crate) addresses: Arc<BlockPodAddressAllocator>,
    pub(crate) hosts: Arc<NamespaceHostsFileLines>,
    pub(crate) zones: u16,
    pub(crate) stop_grace: Duration,
}

/// Starts the agent of one node.
pub(crate) fn start(setup: &AgentSetup, index: usize, name: &str, parts: &mut TaskGroup) {
    let options = AgentOptions {
        node: NodeOptions {
            name: name.to_owned(),
            address: node_address(setup.block, index),
            labels: BTreeMap::from([(
                "topology.kubernetes.io/zone".to_owned(),
                zone(index, setup.zones),
            )]),
            capacity: CAPACITY.map(|(name, amount)| (name.to_owned(), amount.to_owned())).into(),
        },
        directory: setup.directory.join(name),
        images: setup.images.clone(),
        container_program: setup.container_program.clone(),
        addresses: Arc::<BlockPodAddressAllocator>::clone(&setup.addresses),
        hosts: Arc::<NamespaceHostsFileLines>::clone(&setup.hosts),
        allow_host_path: false,
        stop_grace: setup.stop_grace,
    };
    let (client, stop) = (setup.client.clone(), parts.stop());
    parts.spawn(format!("agent of {name}"), async move {
        tholepin_agent::run(client, options, stop).await.map_err(Into::into)
    });
}

/// Returns `zone-a`, `zone-b`, … in turn.
fn zone(index: usize, zones: u16) -> String {
    let zones = usize::from(zones.clamp(1, ZONES_MAX));
    let letter = u8::try_from(index % zones).map_or('a', |offset| char::from(b'a' + offset));
    format!("zone-{letter}")
}

/// Returns 127.N.0.2 and the addresses after it: behind the API server's address, in front of those of Pods.
fn node_address(block: u8, index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, block, 0, u8::try_from(index.saturating_add(2)).unwrap_or(u8::MAX))
}

/// The log files of the agents, as the API server reads them.
#[derive(Debug)]
pub(crate) struct AgentLogs {
    files: PodLogFiles,
}

impl AgentLogs {
    /// Creates a reader of the logs in the directories of these agents.
    pub(crate) fn new(directories: Vec<PathBuf>) -> Self {
        Self { files: PodLogFiles::new(directories) }
    }
}

impl api::PodLogs for AgentLogs {
    fn open(&self, target: api::LogTarget, options: api::LogOptions) -> api::OpenLog<'_> {
        Box::pin(async move {
            let log_options = agent_options(&options, Timestamp::now());
            let opened = self.files.open(&target.uid, &target.container, log_options);
            let lines = opened.map_err(|error| match error {
                LogError::Read { source, .. } => api::LogError::Io(source),
                LogError::NoLog { .. } | _ => api::LogError::NotFound(error.into()),
            })?;
            let bytes = lines.map(|line| line.map(Into::into).map_err(io::Error::other));
            let limit = options.limit_bytes;
            Ok(limited(bytes.boxed(), limit))
        })
    }
}

fn agent_options(options: &api::LogOptions, now: Timestamp) -> tholepin_agent::LogOptions {
    let since = options.since.and_then(|since| now.checked_sub(since).ok());
    tholepin_agent::LogOptions {
        follow: options.follow,
        tail_lines: options.tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        previous: options.previous,
        timestamps: options.timestamps,
        since: options.since_time.or(since),
    }
}

/// Ends the log after `limit` bytes, if there is a limit.
fn limited(log: api::LogStream, limit: Option<u64>) -> api::LogStream {
    let Some(limit) = limit else { return log };
    let left = usize::try_from(limit).unwrap_or(usize::MAX);
    let cut = log.scan(left, |left, piece| {
        let piece = piece.map(|mut bytes| {
            bytes.truncate(*left);
            *left -= bytes.len();
            bytes
        });
        let is_over = piece.as_ref().is_ok_and(|bytes| bytes.is_empty());
        std::future::ready((!is_over).then_some(piece))
    });
    cut.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_spread_over_the_zones() {
        let zones: Vec<String> = (0..4).map(|index| zone(index, 3)).collect();
        assert_eq!(zones, ["zone-a", "zone-b", "zone-c", "zone-a"]);
        assert_eq!(zone(5, 0), "zone-a");
        assert_eq!(node_address(124, 0), Ipv4Addr::new(127, 124, 0, 2));
    }

    #[tokio::test]
    async fn a_limited_log_ends_in_the_middle_of_a_line() {
        let lines = ["one\n", "two\n", "three\n"].map(|line| Ok(line.into()));
        let log = limited(futures::stream::iter(lines).boxed(), Some(6));
        let bytes: Vec<u8> = log.map(|piece| piece.unwrap().to_vec()).concat().await;
        assert_eq!(bytes, b"one\ntw");
    }
}
