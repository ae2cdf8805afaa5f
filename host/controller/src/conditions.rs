//! The conditions that the host writes on a reconciled object, and when it writes `Ready` in place of the plugin.

use serde_json::Value;
use tholepin_core::{
    ObjectMeta,
    condition::{
        ConditionStatus, HostWrittenCondition, QUARANTINED, READY, RECONCILED, Reason,
        is_host_ready,
    },
};

/// A finding about an object that the host writes as a condition.
#[derive(Clone, Debug)]
pub(crate) struct HostConditionUpdate {
    pub(crate) reason: Reason,
    /// One line for people, with how to fix it.
    pub(crate) message: String,
    pub(crate) presence: ObjectReconcilerPresence,
}

/// Whether a plugin is called for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectReconcilerPresence {
    /// A plugin is called for it, or will be soon.
    Present,
    /// No plugin is called for it until something changes, so that its reported status may be wrong.
    Absent,
}

impl HostConditionUpdate {
    /// Returns the host's conditions for this finding, given the object's present conditions.
    pub(crate) fn conditions(
        &self,
        object: &Value,
        meta: &ObjectMeta,
    ) -> Vec<HostWrittenCondition> {
        let condition = |condition_type, status, reason| HostWrittenCondition {
            condition_type,
            status,
            reason,
            message: self.message.clone(),
            observed_generation: meta.generation,
        };
        let own = if self.reason == Reason::TooManyStrikes {
            condition(QUARANTINED, ConditionStatus::True, self.reason)
        } else {
            condition(RECONCILED, ConditionStatus::False, self.reason)
        };
        let ready = self.ready_by_host(object);
        let ready = ready.map(|reason| condition(READY, ConditionStatus::Unknown, reason));
        std::iter::once(own).chain(ready).collect()
    }

    /// Returns the reason of a `Ready=Unknown` that the host writes, or `None` if `Ready` is the plugin's. The host
    /// writes it only while no plugin reconciles the object, and only if the object has the condition.
    fn ready_by_host(&self, object: &Value) -> Option<Reason> {
        let has_ready = conditions(object).any(|condition| condition["type"] == READY);
        match (self.presence, self.reason) {
            (ObjectReconcilerPresence::Present, _) => None,
            (ObjectReconcilerPresence::Absent, _) if !has_ready => None,
            (ObjectReconcilerPresence::Absent, Reason::TooManyStrikes) => Some(Reason::Quarantined),
            (ObjectReconcilerPresence::Absent, reason) => Some(reason),
        }
    }
}

/// Returns the host's conditions for a healthy object: none. If the plugin has not reported `Ready` since the host
/// took that condition over, returns `Reconciled=True`: with its last condition the host stops owning `Ready`, and
/// the plugin must own it by then.
pub(crate) fn of_success(object: &Value, meta: &ObjectMeta) -> Vec<HostWrittenCondition> {
    let called = || HostWrittenCondition {
        condition_type: RECONCILED,
        status: ConditionStatus::True,
        reason: Reason::Succeeded,
        message: "the plugin was called and has not reported `Ready` yet".to_owned(),
        observed_generation: meta.generation,
    };
    conditions(object).any(is_host_ready).then(called).into_iter().collect()
}

/// Returns true if the object has a condition of the host.
pub(crate) fn has_host_condition(object: &Value) -> bool {
    conditions(object)
        .any(|condition| condition["type"] == RECONCILED || condition["type"] == QUARANTINED)
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(conditions: &Value) -> Value {
        json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "x", "generation": 3},
            "status": {"conditions": conditions}})
    }

    #[test]
    fn the_host_writes_ready_only_without_a_plugin_and_where_the_kind_has_it() {
        let reported = object(&json!([{"type": "Ready", "status": "True"}]));
        let without_ready = object(&json!([{"type": "Other", "status": "True"}]));
        let rows = [
            (Reason::Failed, ObjectReconcilerPresence::Present, &reported, None),
            (Reason::InvalidSpec, ObjectReconcilerPresence::Present, &reported, None),
            (
                Reason::InvalidSpec,
                ObjectReconcilerPresence::Absent,
                &reported,
                Some(Reason::InvalidSpec),
            ),
            (
                Reason::PluginMissing,
                ObjectReconcilerPresence::Absent,
                &reported,
                Some(Reason::PluginMissing),
            ),
            (Reason::PluginMissing, ObjectReconcilerPresence::Absent, &without_ready, None),
            (
                Reason::TooManyStrikes,
                ObjectReconcilerPresence::Absent,
                &reported,
                Some(Reason::Quarantined),
            ),
        ];
        for (reason, presence, object, expected) in rows {
            let update = HostConditionUpdate { reason, message: "m".to_owned(), presence };
            let conditions = update.conditions(object, &ObjectMeta::of(object).unwrap());
            assert_eq!(conditions[0].reason, reason);
            let ready =
                conditions.get(1).map(|ready| (ready.condition_type, ready.status, ready.reason));
            let unknown = |reason| (READY, ConditionStatus::Unknown, reason);
            assert_eq!(ready, expected.map(unknown), "{reason:?} {presence:?}");
        }
    }

    #[test]
    fn the_host_keeps_a_condition_until_the_plugin_has_reported_ready() {
        let status = |status: &str, reason: &str| {
            object(&json!([{"type": "Ready", "status": status, "reason": reason}]))
        };
        let rows = [
            (status("Unknown", "PluginMissing"), 1),
            (status("Unknown", "Quarantined"), 1),
            (status("Unknown", "Timeout"), 0),
            (status("True", "AsWanted"), 0),
            (object(&json!([])), 0),
        ];
        for (object, expected) in rows {
            let conditions = of_success(&object, &ObjectMeta::of(&object).unwrap());
            assert_eq!(conditions.len(), expected, "{object}");
        }
    }
}
