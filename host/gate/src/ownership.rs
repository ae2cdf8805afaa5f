//! Answers whose an object is, by its chain of controller references.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{ObjectMeta, ObjectRef, port::StoreView};
use tholepin_schema::manifest::KindName;

/// Pod → StatefulSet → RedisCluster is three; a chain that is longer than this is a mistake.
const CHAIN_LENGTH_MAX: usize = 8;

/// The text at a JSON pointer, or nothing.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Names an object by what it says of itself.
///
/// # Errors
///
/// Fails with the field that is missing.
pub(crate) fn reference(object: &Value) -> Result<ObjectRef, String> {
    let required = |pointer: &str| match text(object, pointer) {
        "" => Err(format!("the object has no `{}`", pointer.replace('/', "."))),
        found => Ok(found.to_owned()),
    };
    Ok(ObjectRef {
        kind: KindName { api_version: required("/apiVersion")?, kind: required("/kind")? },
        namespace: text(object, "/metadata/namespace").to_owned(),
        name: required("/metadata/name")?,
    })
}

/// Whether `object` is the object `uid`, or its controller references lead there.
///
/// Each step compares uids, so an owner that was deleted and made anew under the same name owns
/// nothing of its predecessor.
pub(crate) fn leads_to(view: &dyn StoreView, object: &Value, uid: &str) -> bool {
    let mut current = Arc::new(object.clone());
    for _ in 0..CHAIN_LENGTH_MAX {
        if text(&current, "/metadata/uid") == uid {
            return true;
        }
        let Some((owner, owner_uid)) = controller(&current) else { return false };
        if owner_uid == uid {
            return true;
        }
        match view.get(&owner) {
            Some(next) if text(&next, "/metadata/uid") == owner_uid => current = next,
            _ => return false,
        }
    }
    false
}

/// The objects whose chain of controllers ends at this uid, nearest first; the object itself is not
/// among them. A kind that is not watched ends a chain.
pub(crate) fn descendants(view: &dyn StoreView, uid: &str) -> Vec<Arc<ObjectMeta>> {
    let mut found: Vec<Arc<ObjectMeta>> = Vec::new();
    let mut generation = vec![uid.to_owned()];
    for _ in 0..CHAIN_LENGTH_MAX {
        let children: Vec<Arc<ObjectMeta>> =
            generation.iter().flat_map(|uid| view.owned_by(uid)).collect();
        generation = children.iter().map(|child| child.uid.clone()).collect();
        found.extend(children);
        if generation.is_empty() {
            break;
        }
    }
    found
}

/// The object at which the chain of controllers of an object ends, with its uid: the object itself if
/// nobody controls it; none if the chain is broken, or too long.
pub(crate) fn root(view: &dyn StoreView, object: &ObjectMeta) -> Option<(ObjectRef, String)> {
    let mut current = Arc::new(object.clone());
    for _ in 0..CHAIN_LENGTH_MAX {
        let Some(owner) = current.controller() else {
            return Some((current.object.clone(), current.uid.clone()));
        };
        let name = ObjectRef {
            kind: owner.kind.clone(),
            namespace: current.object.namespace.clone(),
            name: owner.name.clone(),
        };
        match view.meta(&name).filter(|meta| meta.uid == owner.uid) {
            Some(next) => current = next,
            // Nobody watches its kind: it may well be the end of the chain.
            None => return Some((name, owner.uid.clone())),
        }
    }
    None
}

/// The object that controls `object`, with the uid that the reference names.
pub(crate) fn controller(object: &Value) -> Option<(ObjectRef, String)> {
    let references = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let controls = |reference: &&Value| reference.get("controller") == Some(&Value::Bool(true));
    let reference = references.iter().find(controls)?;
    let owner = ObjectRef {
        kind: KindName {
            api_version: text(reference, "/apiVersion").to_owned(),
            kind: text(reference, "/kind").to_owned(),
        },
        namespace: text(object, "/metadata/namespace").to_owned(),
        name: text(reference, "/name").to_owned(),
    };
    Some((owner, text(reference, "/uid").to_owned()))
}
