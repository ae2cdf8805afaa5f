//! Decides which of the spec's settings running servers are given.
//!
//! Each is an action of its own, so that one that a server refuses does not keep the others away, and
//! none of them is part of what makes a cluster ready: it serves with the values that it has.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use tholepin_schema::action::{Action, Presume, Verb};

use crate::{
    SETTINGS_MAX, configuration,
    picture::{Live, Picture},
};

/// The settings that members should have and do not show, at most [`SETTINGS_MAX`] at once.
pub(super) fn decide(picture: &Picture<'_>) -> Vec<Action> {
    let wanted = configuration::of_spec(picture.spec);
    let members = picture.live.values();
    members.flat_map(|live| missing(live, &wanted)).take(SETTINGS_MAX).collect()
}

fn missing(live: &Live<'_>, wanted: &BTreeMap<String, String>) -> Vec<Action> {
    // What the member does not tell is left alone: setting it again and again would never end.
    let differs = |(name, value): &(&String, &String)| {
        live.facts.settings.get(*name).is_some_and(|shown| shown != *value)
    };
    let action = |(name, value): (&String, &String)| {
        let pod = live.member.pod.clone();
        Action {
            id: Some(format!("set:{pod}:{name}")),
            presume: Presume {
                node: Some(live.node),
                run_id: live.facts.run_id,
                ..Presume::default()
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
