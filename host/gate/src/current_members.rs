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
    /// has named an instance of the object since this host started. `context` must be a plan's, so that
    /// nothing is written.
    ///
    /// # Errors
    ///
    /// Fails if the ledger or the password cannot be read, or if the members do not answer in time.
    pub async fn members_now(
        &self,
        context: &ReconcileScope,
    ) -> Result<BTreeMap<String, Snapshot>, CallError> {
        let Self { ports, books, credentials, .. } = self;
        let book = books.copy(&*ports.kubernetes, context).await?;
        let mut seen = BTreeMap::new();
        for (group, instance) in &book.instances {
            let look = async {
                let members =
                    instance::members(credentials, ports, context, &book.ledger, instance).await?;
                let mut snapshot = ports.redis.observe(&members, &instance.settings).await;
                snapshot.credentials = members.credentials_facts;
                Ok(snapshot)
            };
            let snapshot = timeout(DEADLINE, look).await;
            let late =
                |_| Err(CallError::Timeout(format!("reading the members of the group `{group}`")));
            seen.insert(group.clone(), snapshot.unwrap_or_else(late)?);
        }
        Ok(seen)
    }
}
