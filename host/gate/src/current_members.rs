//! Looks at the members of an object for a person who asks, and changes nothing.

use std::{collections::BTreeMap, time::Duration};

use tholepin_core::CallError;
use tholepin_schema::snapshot::Snapshot;
use tokio::time::timeout;

use crate::{Gate, ReconcileScope, instance};

/// How long the look at one group of members may take.
const DEADLINE: Duration = Duration::from_secs(2);

impl Gate {
    /// What the members of an object say now, by group of processes; empty for an object that no plugin has
    /// looked at in this process. The context must be a plan's: nothing is written.
    ///
    /// # Errors
    ///
    /// Fails if the ledger or the password cannot be read, or if the members take too long.
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
            let late = |_| Err(CallError::Timeout(format!("the look at the group `{group}`")));
            seen.insert(group.clone(), snapshot.unwrap_or_else(late)?);
        }
        Ok(seen)
    }
}
