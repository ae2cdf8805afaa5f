//! Checks whether labels match a selector: label selectors, equality selectors and node selectors.
//!
//! This module is pure. A label selector without any requirement matches everything; an absent one matches
//! nothing. A node selector matches if one of its terms does, and an empty term matches nothing. Source:
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// The labels of one object.
pub type Labels = BTreeMap<String, String>;

/// Returns true if `labels` meet every requirement of `selector`. An absent selector matches nothing.
pub fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    let equal = selector.match_labels.iter().flatten();
    let required = selector.match_expressions.iter().flatten();
    equal.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && required.into_iter().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            meets(&requirement.operator, values, labels.get(&requirement.key))
        })
}

/// Returns true if the equality selector of a Service matches. An empty selector matches nothing.
pub fn selects_equal(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Returns true if a node with that name and these labels meets one of the selector's terms.
pub fn selects_node(selector: &NodeSelector, name: &str, labels: &Labels) -> bool {
    selector.node_selector_terms.iter().any(|term| term_selects_node(term, name, labels))
}

/// Returns true if a node with that name and these labels meets all requirements of one term.
pub fn term_selects_node(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let on_labels = |requirement: &NodeSelectorRequirement| {
        let values = requirement.values.as_deref().unwrap_or_default();
        meets(&requirement.operator, values, labels.get(&requirement.key))
    };
    // `metadata.name` is the only field that a node selector can refer to.
    let name = name.to_owned();
    let on_fields = |requirement: &NodeSelectorRequirement| {
        let values = requirement.values.as_deref().unwrap_or_default();
        requirement.key == "metadata.name" && meets(&requirement.operator, values, Some(&name))
    };
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(on_labels)
        && fields.iter().all(on_fields)
}

/// Checks one requirement. An unknown operator is never met.
fn meets(operator: &str, values: &[String], value: Option<&String>) -> bool {
    let number = |text: &String| text.parse::<i64>().ok();
    let bound = values.first().and_then(number);
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => !value.is_some_and(|value| values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| bound < value),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn labels() -> Labels {
        Labels::from([("app".to_owned(), "redis".to_owned()), ("size".to_owned(), "3".to_owned())])
    }

    #[test]
    fn label_selectors_follow_their_operators() {
        let cases = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "redis"}}), true),
            (json!({"matchLabels": {"app": "other"}}), false),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["redis"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}),
                true,
            ),
            (json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "Sounds"}]}), false),
        ];
        for (selector, expected) in cases {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(selects(Some(&parsed), &labels()), expected, "{selector}");
        }
        assert!(!selects(None, &labels()));
    }

    #[test]
    fn a_service_without_selector_selects_nothing() {
        assert!(!selects_equal(&Labels::new(), &labels()));
        assert!(selects_equal(&Labels::from([("app".into(), "redis".into())]), &labels()));
    }

    #[test]
    fn node_selectors_need_one_whole_term() {
        let cases: [(Value, bool); 6] = [
            (json!([{}]), false),
            (
                json!([{"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["2"]}]}]),
                true,
            ),
            (
                json!([{"matchExpressions": [{"key": "size", "operator": "Lt", "values": ["3"]}]}]),
                false,
            ),
            (
                json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]),
                true,
            ),
            (
                json!([{"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["n1"]}]}]),
                false,
            ),
            (
                json!([
                    {"matchExpressions": [{"key": "app", "operator": "In", "values": ["no"]}]},
                    {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
                ]),
                true,
            ),
        ];
        for (terms, expected) in cases {
            let selector = json!({ "nodeSelectorTerms": terms.clone() });
            let parsed: NodeSelector = serde_json::from_value(selector).unwrap();
            assert_eq!(selects_node(&parsed, "n1", &labels()), expected, "{terms}");
        }
    }
}
