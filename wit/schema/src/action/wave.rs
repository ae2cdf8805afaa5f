//! Orders a list of actions into waves; the actions of one wave run concurrently.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};

use super::Action;

/// The most actions in one list. A full mesh of 32 nodes takes 496 `meet` actions.
pub const ACTIONS_MAX: usize = 1024;

/// Why a list of actions has no order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionOrderError {
    /// The list is too long.
    #[error(
        "{0} actions are too many, at most {ACTIONS_MAX} are allowed: send them in several lists"
    )]
    TooMany(usize),
    /// Two actions have the same id.
    #[error("two actions have the id `{0}`")]
    Duplicate(String),
    /// `after` names an action that is not in the list.
    #[error("`after` names `{0}`, which is not in the list")]
    Unknown(String),
    /// The actions wait for each other in a circle.
    #[error("the action `{0}` waits for itself through `after`")]
    Cycle(String),
}

/// Divides a list into waves, as indexes into the list. Each action is in the first wave after those of the
/// actions that its `after` names; within a wave the order of the list is kept.
///
/// # Errors
///
/// Fails if the list is too long, an id occurs twice, `after` names an id that is not in the list, or the
/// actions wait for each other in a circle.
pub fn waves(actions: &[Action]) -> Result<Vec<Vec<usize>>, ActionOrderError> {
    if ACTIONS_MAX < actions.len() {
        return Err(ActionOrderError::TooMany(actions.len()));
    }
    let mut ids = BTreeSet::new();
    for id in actions.iter().filter_map(|action| action.id.as_deref()) {
        if !ids.insert(id) {
            return Err(ActionOrderError::Duplicate(id.into()));
        }
    }
    let mut named = actions.iter().flat_map(|action| &action.after);
    if let Some(unknown) = named.find(|id| !ids.contains(id.as_str())) {
        return Err(ActionOrderError::Unknown(unknown.clone()));
    }
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut remaining: BTreeMap<usize, &Action> = actions.iter().enumerate().collect();
    let mut order = Vec::new();
    while let Some((_, first)) = remaining.first_key_value() {
        let ready = |action: &Action| action.after.iter().all(|id| done.contains(id.as_str()));
        let wave: Vec<usize> =
            remaining.iter().filter(|(_, action)| ready(action)).map(|(index, _)| *index).collect();
        if wave.is_empty() {
            return Err(ActionOrderError::Cycle(first.id.clone().unwrap_or_default()));
        }
        for index in &wave {
            done.extend(remaining.remove(index).and_then(|action| action.id.as_deref()));
        }
        order.push(wave);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Verb;
    use alloc::vec;

    fn action(id: &str, after: &[&str]) -> Action {
        let verb = Verb::Meet { pod: "a".into(), with: "b".into() };
        let id = (!id.is_empty()).then(|| id.into());
        Action { id, after: after.iter().map(|&id| id.into()).collect(), ..verb.into() }
    }

    #[test]
    fn an_action_is_in_the_first_wave_after_those_it_names() {
        let list =
            [action("", &["b", "c"]), action("b", &["c"]), action("c", &[]), action("", &[])];
        assert_eq!(waves(&list), Ok(vec![vec![2, 3], vec![1], vec![0]]));
        assert_eq!(waves(&[]), Ok(vec![]));
    }

    #[test]
    fn a_list_without_order_is_refused() {
        let cases = [
            (vec![action("a", &["b"]), action("b", &["a"])], ActionOrderError::Cycle("a".into())),
            (vec![action("a", &["a"])], ActionOrderError::Cycle("a".into())),
            (vec![action("a", &["z"])], ActionOrderError::Unknown("z".into())),
            (vec![action("a", &[]), action("a", &[])], ActionOrderError::Duplicate("a".into())),
            (vec![action("", &[]); 1025], ActionOrderError::TooMany(1025)),
        ];
        for (list, error) in cases {
            assert_eq!(waves(&list), Err(error));
        }
    }
}
