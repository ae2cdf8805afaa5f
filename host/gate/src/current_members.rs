//! Reads the members of an object for a person's query, and changes nothing.

use std::{collections::BTreeMap, time::Duration};

use tholepin_core::CallError;
use tholepin_schema::snapshot::Snapshot;
use tokio::time::timeout;

use crate::{Gate, ReconcileScope, instance};

/// The time limit for reading one group of members.
const DEADLINE: Duration = Duration::from_secs(2);

impl Gate {
    /// Returns the current state of an object's members, by group of processes. The map is empty if no plugin
    /// has named an instance of the object since this host started. `scope` must be a plan's, so that
    /// nothing is written.
    ///
    /// # Errors
    ///
    /// Fails if the ledger or the password cannot be read, or if the members do not answer in time.
    pub async fn members_now(
        &self,
        scope: &ReconcileScope,
    ) -> Result<BTreeMap<String, Snapshot>, CallError> {
        let Self { ports, ledgers, credentials, .. } = self;
        let object_ledger = ledgers.copy(&*ports.kubernetes, scope).await?;
        let mut by_group = BTreeMap::new();
        for (group, instance) in &object_ledger.instances {
            let read = async {
                let members =
                    instance::members(credentials, ports, scope, &object_ledger.ledger, instance)
                        .await?;
                let mut snapshot = ports.redis.observe(&members, &instance.settings).await;
                snapshot.credentials = members.credentials_facts;
                Ok(snapshot)
            };
            let snapshot = timeout(DEADLINE, read).await;
            let late =
                |_| Err(CallError::Timeout(format!("reading the members of the group `{group}`")));
            by_group.insert(group.clone(), snapshot.unwrap_or_else(late)?);
        }
        Ok(by_group)
    }
}
