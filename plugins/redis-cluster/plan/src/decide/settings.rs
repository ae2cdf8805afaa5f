//! Decides which of the spec's settings to change on running servers, and whether the cluster may elect each
//! replica (`election`). To forbid the election is the first step of fencing (`fence`). The settings that Tholepin
//! manages are planned in `common`.
//!
//! Each setting is an action of its own, so that a setting that a server refuses does not delay the others. A
//! cluster is ready without them, because it serves with its present values.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use tholepin_schema::action::{Action, Preconditions, Verb};

use tholepin_redis_types::redis_cluster::DataLoss;
use tholepin_schema::snapshot::NotInSyncReason;

use super::fence;
use crate::{
    NO_FAILOVER, REPLICA_BEHIND_BYTES_MAX, SETTINGS_MAX,
    cluster_model::{AnsweringMember, ObservedClusterModel},
    configuration,
};

/// Plans the settings that members should have and do not report, at most [`SETTINGS_MAX`].
pub(super) fn decide(model: &ObservedClusterModel<'_>) -> Vec<Action> {
    let desired = configuration::of_spec(model.spec);
    let elections = model.answering.values().filter_map(|answering| election(model, answering));
    let missing = model.answering.values().flat_map(|answering| missing(answering, &desired));
    elections.chain(missing).take(SETTINGS_MAX).collect()
}

/// Decides whether the cluster itself may elect a replica. Redis would elect a replica that lost its link a
/// minute before its primary died, or one that hung while its primary accepted writes, and lose those writes.
/// While the primary does not answer, the last known state counts. No replica may be elected while a hanging
/// primary must be ended first. A primary gets the setting `no`, so that it can be elected again once it is a
/// replica.
fn election(model: &ObservedClusterModel<'_>, answering: &AnsweringMember<'_>) -> Option<Action> {
    let allow = |desired: &str| {
        missing(answering, &BTreeMap::from([(NO_FAILOVER.into(), desired.into())])).pop()
    };
    let Some(upstream) = &answering.facts.replication.as_ref()?.upstream else {
        return allow("no");
    };
    let pod = &answering.member.pod;
    let hangs =
        || answering.own.primary.is_some_and(|primary| fence::hung(model, primary).is_some());
    let may_lose_data = model.spec.data_loss == DataLoss::Acceptable;
    let desired = match model.snapshot().check_in_sync(pod, REPLICA_BEHIND_BYTES_MAX) {
        Ok(()) if hangs() => "yes",
        Ok(()) => "no",
        Err(_) if may_lose_data => return None,
        Err(NotInSyncReason::LinkDown(_))
            if upstream.down_since_s.is_some_and(|down_s| 2 <= down_s) =>
        {
            "yes"
        }
        Err(NotInSyncReason::NoPrimary(_)) if !model.was_in_sync(pod, answering.node) => "yes",
        Err(NotInSyncReason::NoPrimary(_)) if hangs() => "yes",
        Err(NotInSyncReason::NoPrimary(_)) => "no",
        Err(_) => return None,
    };
    allow(desired)
}

fn missing(answering: &AnsweringMember<'_>, desired: &BTreeMap<String, String>) -> Vec<Action> {
    // Skips settings that the member does not report: they would be set again in every reconcile.
    let differs = |(name, value): &(&String, &String)| {
        answering.facts.settings.get(*name).is_some_and(|shown| shown != *value)
    };
    let action = |(name, value): (&String, &String)| {
        let pod = answering.member.pod.clone();
        Action {
            id: Some(format!("set:{pod}:{name}")),
            presume: Preconditions {
                node: Some(answering.node),
                run_id: answering.facts.run_id,
                ..Preconditions::default()
            },
            verb: Verb::Configure {
                pod,
                settings: BTreeMap::from([(name.clone(), value.clone())]),
                temporary: false,
            },
            after: Vec::new(),
        }
    };
    desired.iter().filter(differs).map(action).collect()
}
