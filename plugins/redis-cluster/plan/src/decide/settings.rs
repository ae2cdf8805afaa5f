//! Decides which of the spec's settings running servers are given.
//!
//! Each is an action of its own, so that one that a server refuses does not keep the others away, and
//! none of them is part of what makes a cluster ready: it serves with the values that it has.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use tholepin_schema::action::{Action, Preconditions, Verb};

use tholepin_redis_types::redis_cluster::DataLoss;
use tholepin_schema::snapshot::NotInSync;

use super::fence;
use crate::{
    NO_FAILOVER, REPLICA_BEHIND_BYTES_MAX, SETTINGS_MAX,
    cluster_model::{ClusterModel, LiveMember},
    configuration,
};

/// The settings that members should have and do not show, at most [`SETTINGS_MAX`] at once.
pub(super) fn decide(picture: &ClusterModel<'_>) -> Vec<Action> {
    let wanted = configuration::of_spec(picture.spec);
    let elections = picture.live.values().filter_map(|live| election(picture, live));
    let missing = picture.live.values().flat_map(|live| missing(live, &wanted));
    elections.chain(missing).take(SETTINGS_MAX).collect()
}

/// Whether the cluster itself may elect a replica. The engine elects one that has lost its link a minute before
/// its primary died, and one that hung while its primary was written to; what was written since would be lost.
/// While the primary is not heard, what was so last counts. Nobody is elected while a primary that hangs is to be
/// ended first. Whoever became primary may be elected again when it has become a replica.
fn election(picture: &ClusterModel<'_>, live: &LiveMember<'_>) -> Option<Action> {
    let allow =
        |wanted: &str| missing(live, &BTreeMap::from([(NO_FAILOVER.into(), wanted.into())])).pop();
    let Some(upstream) = &live.facts.replication.as_ref()?.upstream else { return allow("no") };
    let pod = &live.member.pod;
    let hangs = || live.own.primary.is_some_and(|it| fence::hung(picture, it).is_some());
    let may_lose_data = picture.spec.data_loss == DataLoss::Acceptable;
    let wanted = match picture.snapshot().check_in_sync(pod, REPLICA_BEHIND_BYTES_MAX) {
        Ok(()) if hangs() => "yes",
        Ok(()) => "no",
        Err(_) if may_lose_data => return None,
        Err(NotInSync::LinkDown(_)) if upstream.down_since_s.is_some_and(|down_s| 2 <= down_s) => {
            "yes"
        }
        Err(NotInSync::NoPrimary(_)) if !picture.was_in_sync(pod, live.node) => "yes",
        Err(NotInSync::NoPrimary(_)) if hangs() => "yes",
        Err(NotInSync::NoPrimary(_)) => "no",
        Err(_) => return None,
    };
    allow(wanted)
}

fn missing(live: &LiveMember<'_>, wanted: &BTreeMap<String, String>) -> Vec<Action> {
    // What the member does not tell is left alone: setting it again and again would never end.
    let differs = |(name, value): &(&String, &String)| {
        live.facts.settings.get(*name).is_some_and(|shown| shown != *value)
    };
    let action = |(name, value): (&String, &String)| {
        let pod = live.member.pod.clone();
        Action {
            id: Some(format!("set:{pod}:{name}")),
            presume: Preconditions {
                node: Some(live.node),
                run_id: live.facts.run_id,
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
    wanted.iter().filter(differs).map(action).collect()
}
