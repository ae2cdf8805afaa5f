//! The state of one server of a Redis Cluster, as the server reports it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use redis::{Connection, cmd};

/// The replies of one server to `INFO`, `CLUSTER INFO` and `CLUSTER NODES`.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// `INFO everything` by field, which includes `commandstats`.
    pub info: BTreeMap<String, String>,
    /// `CLUSTER INFO` by field.
    pub cluster: BTreeMap<String, String>,
    /// The rows of `CLUSTER NODES`.
    pub rows: Vec<ClusterNodesLine>,
}

/// One row of `CLUSTER NODES`.
#[derive(Clone, Debug)]
pub struct ClusterNodesLine {
    /// The node's id.
    pub id: String,
    /// `ip:port`; without an ip if the server knows none.
    pub address: String,
    /// Flags separated by commas, such as `myself,master`.
    pub flags: String,
    /// The config epoch of the node.
    pub epoch: u64,
    /// Slot ranges, both ends included.
    pub slots: Vec<(u16, u16)>,
}

impl ClusterNodesLine {
    /// Returns true if the node has this flag.
    #[must_use]
    pub fn is(&self, flag: &str) -> bool {
        self.flags.split(',').any(|set| set == flag)
    }
}

impl ServerInfo {
    /// Reads the state of a server.
    ///
    /// # Errors
    ///
    /// Fails if the server does not answer or is not in cluster mode.
    pub fn ask(connection: &mut Connection) -> Result<Self> {
        let info: String = cmd("INFO").arg("everything").query(connection)?;
        let cluster: String = cmd("CLUSTER").arg("INFO").query(connection)?;
        let rows: String = cmd("CLUSTER").arg("NODES").query(connection)?;
        let rows = rows.lines().map(row).collect::<Result<_>>()?;
        Ok(Self { info: fields(&info), cluster: fields(&cluster), rows })
    }

    /// Returns the server's own row.
    ///
    /// # Errors
    ///
    /// Fails if no row has the flag `myself`.
    pub fn own(&self) -> Result<&ClusterNodesLine> {
        self.rows.iter().find(|row| row.is("myself")).context("no row `myself`")
    }

    /// Returns a field of `INFO`; empty if absent.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    /// Returns the server's process id.
    ///
    /// # Errors
    ///
    /// Fails if `INFO` has no process id.
    pub fn pid(&self) -> Result<u32> {
        self.field("process_id").parse().context("INFO has no process_id")
    }

    /// Returns true if the server is a primary with slots.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.own().is_ok_and(|own| own.is("master") && !own.slots.is_empty())
    }

    /// Returns true if the server reports that the cluster serves (`cluster_state:ok`).
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.cluster.get("cluster_state").is_some_and(|state| state == "ok")
    }

    /// Checks that the server sees a complete, healthy cluster of this size.
    ///
    /// # Errors
    ///
    /// Fails with the first difference.
    pub fn check_healthy(&self, nodes: usize, shards: usize) -> Result<()> {
        let value_of = |name: &str| self.cluster.get(name).map_or("", String::as_str);
        let expected = [
            ("cluster_state", "ok".to_owned()),
            ("cluster_slots_assigned", "16384".to_owned()),
            ("cluster_slots_ok", "16384".to_owned()),
            ("cluster_known_nodes", nodes.to_string()),
            ("cluster_size", shards.to_string()),
        ];
        for (name, value) in expected {
            ensure!(value_of(name) == value, "{name} is {} and not {value}", value_of(name));
        }
        for row in &self.rows {
            let unhealthy = ["fail", "fail?", "handshake", "noaddr"];
            ensure!(!unhealthy.iter().any(|flag| row.is(flag)), "{} is {}", row.id, row.flags);
        }
        if self.field("role") == "slave" {
            let link = self.field("master_link_status");
            ensure!(link == "up", "its link to the primary is {link}");
        } else {
            ensure!(self.is_primary(), "it is a primary without slots");
        }
        Ok(())
    }
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn row(line: &str) -> Result<ClusterNodesLine> {
    let fields: Vec<_> = line.split(' ').collect();
    let field = |at: usize| fields.get(at).copied().with_context(|| format!("short row: {line}"));
    let address = field(1)?.split(['@', ',']).next().unwrap_or_default().to_owned();
    let slots = fields.iter().skip(8).filter(|range| !range.starts_with('['));
    let range = |text: &&str| -> Result<(u16, u16)> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Ok((first.parse()?, last.parse()?))
    };
    Ok(ClusterNodesLine {
        id: field(0)?.to_owned(),
        address,
        flags: field(2)?.to_owned(),
        epoch: field(6)?.parse()?,
        slots: slots.map(range).collect::<Result<_>>()?,
    })
}
