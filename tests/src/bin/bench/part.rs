//! The parts of the benchmark; each can be selected by name.

use anyhow::Result;

use crate::{
    events, failover, growth, hook, idle, plugins, sandbox, store, swap, table::BenchRow, wasm,
};

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BenchPart {
    Swap,
    Failover,
    Wasm,
    Sandbox,
    Hook,
    Store,
    Plugins,
    Events,
    Idle,
    Growth,
}

impl BenchPart {
    /// All parts, in the order in which they are measured.
    pub(crate) const ALL: [Self; 10] = [
        Self::Swap,
        Self::Failover,
        Self::Wasm,
        Self::Sandbox,
        Self::Hook,
        Self::Store,
        Self::Plugins,
        Self::Events,
        Self::Idle,
        Self::Growth,
    ];

    /// Returns the part with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Swap => "swap",
            Self::Failover => "failover",
            Self::Wasm => "wasm",
            Self::Sandbox => "sandbox",
            Self::Hook => "hook",
            Self::Store => "store",
            Self::Plugins => "plugins",
            Self::Events => "events",
            Self::Idle => "idle",
            Self::Growth => "growth",
        }
    }

    /// Returns one line about what the part measures.
    pub(crate) const fn about(self) -> &'static str {
        match self {
            Self::Swap => "from the rename of a plugin's file to the effect of its new code",
            Self::Failover => "how long a shard cannot be written after its primary was killed",
            Self::Wasm => "a recorded reconcile in Wasm beside the same code natively",
            Self::Sandbox => "a fresh instance for a call that does nothing",
            Self::Hook => "processor time of a reconcile beside a shell hook's and an HTTP hook's",
            Self::Store => "memory per Pod that is watched",
            Self::Plugins => "memory of the host by how many plugins it serves",
            Self::Events => "from a change to the reconcile that it causes, at 1,000 objects",
            Self::Idle => "the host's writes while nothing changes",
            Self::Growth => "a reconcile by the size of its cluster, and by the number of clusters",
        }
    }

    /// Measures the part.
    pub(crate) async fn measure(self) -> Result<Vec<BenchRow>> {
        match self {
            Self::Swap => swap::measure().await,
            Self::Failover => {
                let mut rows = Vec::new();
                for node_timeout_ms in [2000, 5000] {
                    rows.extend(failover::measure(node_timeout_ms).await?);
                }
                Ok(rows)
            }
            Self::Wasm => wasm::measure().await,
            Self::Sandbox => sandbox::measure().await,
            Self::Hook => hook::measure().await,
            Self::Store => store::measure().await,
            Self::Plugins => plugins::measure().await,
            Self::Events => events::measure().await,
            Self::Idle => idle::measure().await,
            Self::Growth => growth::measure().await,
        }
    }
}
