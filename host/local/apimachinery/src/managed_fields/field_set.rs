//! A set of fields, as the tree of `fieldsV1`: `f:name`, `k:{…}`, `v:…`.
//!
//! It holds names only; it reads neither objects nor schemas.
//!
//! Invariant: no child is empty, so equal sets are equal trees.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The deepest nesting of a `fieldsV1` that is read.
const DEPTH_MAX: usize = 128;

/// A set of paths. Each node is one path, which may be in the set (`member`), with the paths below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    member: bool,
    children: BTreeMap<String, Self>,
}

impl FieldSet {
    /// Returns the set that holds only its own path.
    pub(super) fn here() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub(super) fn is_member(&self) -> bool {
        self.member
    }

    /// Adds the path of this node.
    pub(super) fn insert_here(&mut self) {
        self.member = true;
    }

    /// Removes the path of this node, but not those below it.
    pub(super) fn clear_member(&mut self) {
        self.member = false;
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.children.iter().map(|(element, child)| (element.as_str(), child))
    }

    pub(super) fn child(&self, element: &str) -> Option<&Self> {
        self.children.get(element)
    }

    /// Adds a subtree; an empty one is not kept.
    pub(super) fn insert(&mut self, element: String, below: Self) {
        if !below.is_empty() {
            self.children.insert(element, below);
        }
    }

    pub(super) fn remove_child(&mut self, element: &str) {
        self.children.remove(element);
    }

    /// Changes a subtree in place, and removes it if it becomes empty.
    pub(super) fn edit_child(&mut self, element: &str, change: impl FnOnce(&mut Self)) {
        if let Some(child) = self.children.get_mut(element) {
            change(child);
            if child.is_empty() {
                self.children.remove(element);
            }
        }
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        union.absorb(other);
        union
    }

    fn absorb(&mut self, other: &Self) {
        self.member |= other.member;
        for (element, theirs) in &other.children {
            match self.children.get_mut(element) {
                Some(ours) => ours.absorb(theirs),
                None => {
                    self.children.insert(element.clone(), theirs.clone());
                }
            }
        }
    }

    /// Returns the paths of this set that are not in the other. Each path is compared without those below it.
    pub(super) fn difference(&self, other: &Self) -> Self {
        let mut rest = Self { member: self.member && !other.member, children: BTreeMap::new() };
        for (element, ours) in &self.children {
            match other.children.get(element) {
                Some(theirs) => rest.insert(element.clone(), ours.difference(theirs)),
                None => rest.insert(element.clone(), ours.clone()),
            }
        }
        rest
    }

    /// Returns the paths that are in both sets.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (element, ours) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                both.insert(element.clone(), ours.intersection(theirs));
            }
        }
        both
    }

    /// Returns every path of the set in the form of messages: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, path: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(path.to_owned());
        }
        for (element, child) in &self.children {
            child.collect_paths(&format!("{path}{}", display_element(element)), paths);
        }
    }

    /// Returns the set as `fieldsV1`.
    pub(super) fn to_json(&self) -> Value {
        let mut members = Map::new();
        if self.member && !self.children.is_empty() {
            members.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            members.insert(element.clone(), child.to_json());
        }
        Value::Object(members)
    }

    /// Parses a `fieldsV1`; returns `None` if it is malformed or nested too deeply.
    pub(super) fn from_json(json: &Value) -> Option<Self> {
        Self::read(json, 0).map(|mut root| {
            // An empty object below the root means "this field"; at the root it means "no field".
            root.member = false;
            root
        })
    }

    fn read(json: &Value, depth: usize) -> Option<Self> {
        let members = json.as_object().filter(|_| depth < DEPTH_MAX)?;
        let mut set = Self { member: members.is_empty(), children: BTreeMap::new() };
        for (element, below) in members {
            if element == "." {
                set.member = true;
            } else if ["f:", "k:", "v:", "i:"].iter().any(|prefix| element.starts_with(prefix)) {
                set.insert(canonical(element), Self::read(below, depth + 1)?);
            } else {
                return None;
            }
        }
        Some(set)
    }
}

/// Returns the element of an item in a list of type map: `k:{"name":"a"}`, with sorted keys.
pub(super) fn key_element(keys: &BTreeMap<&str, &Value>) -> String {
    let pairs = keys.iter().map(|(name, value)| format!("{}:{value}", Value::from(*name)));
    format!("k:{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

/// Returns the element of an item in a set: `v:"a"`.
pub(super) fn value_element(value: &Value) -> String {
    format!("v:{value}")
}

/// Rewrites the JSON of an element that a client sent in the form of this module, so that equal elements have equal
/// text.
fn canonical(element: &str) -> String {
    if let Some(text) = element.strip_prefix("k:")
        && let Ok(Value::Object(keys)) = serde_json::from_str(text)
    {
        return key_element(&keys.iter().map(|(name, value)| (name.as_str(), value)).collect());
    }
    if let Some(text) = element.strip_prefix("v:")
        && let Ok(value) = serde_json::from_str::<Value>(text)
    {
        return value_element(&value);
    }
    element.to_owned()
}

fn display_element(element: &str) -> String {
    match element.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", value)) => format!("[={value}]"),
        Some(("k:", keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys = keys.iter().map(|(name, value)| format!("{name}={value}"));
            format!("[{}]", keys.collect::<Vec<_>>().join(","))
        }
        Some((_, rest)) => format!("[{rest}]"),
        None => element.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn set(json: Value) -> FieldSet {
        FieldSet::from_json(&json).unwrap()
    }

    #[test]
    fn fields_v1_round_trips() {
        let cases = [
            json!({}),
            json!({"f:data": {"f:a": {}}}),
            json!({"f:data": {".": {}, "f:a": {}}}),
            json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}}),
            json!({"f:metadata": {"f:finalizers": {"v:\"a/b\"": {}}}}),
        ];
        for case in cases {
            assert_eq!(set(case.clone()).to_json(), case);
        }
        assert_eq!(FieldSet::from_json(&json!({"data": {}})), None);
        assert_eq!(FieldSet::from_json(&json!([])), None);
    }

    #[test]
    fn keys_in_another_order_are_the_same_element() {
        let one = set(json!({"k:{\"a\":1,\"b\":2}": {}}));
        let other = set(json!({"k:{\"b\": 2, \"a\": 1}": {}}));
        assert_eq!(one, other);
    }

    #[test]
    fn paths_read_as_the_server_prints_them() {
        let fields = set(json!({
            "f:data": {"f:a": {}},
            "f:metadata": {"f:finalizers": {"v:\"x\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:name": {}}}},
        }));
        assert_eq!(
            fields.paths(),
            [
                ".data.a",
                r#".metadata.finalizers[="x"]"#,
                r#".spec.ports[port=80,protocol="TCP"].name"#,
            ]
        );
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let leaf = any::<bool>().prop_map(|member| FieldSet { member, ..FieldSet::default() });
        leaf.prop_recursive(3, 20, 3, |inner| {
            (any::<bool>(), prop::collection::btree_map("f:[a-c]", inner, 0..3)).prop_map(
                |(member, children)| {
                    let mut set = FieldSet { member, ..FieldSet::default() };
                    for (element, child) in children {
                        set.insert(element, child);
                    }
                    set
                },
            )
        })
    }

    proptest! {
        #[test]
        fn sets_obey_the_laws_of_sets(a in any_set(), b in any_set()) {
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            prop_assert!(a.difference(&a).is_empty());
        }
    }
}
