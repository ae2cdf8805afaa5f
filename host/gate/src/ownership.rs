//! Determines which object an object belongs to, by its chain of controller references.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{ObjectMeta, ObjectRef, port::WatchedStoreView};
use tholepin_schema::manifest::KindName;

/// Pod → StatefulSet → RedisCluster is three; a longer chain than this is a mistake.
const CHAIN_LENGTH_MAX: usize = 8;

/// Returns the text at a JSON pointer, or an empty text.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the reference of an object by its own fields.
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

/// Returns true if `object` has this uid, or if its chain of controllers leads to it.
///
/// Each step compares uids, so an owner that was deleted and created again under the same name does not own
/// what its predecessor owned.
pub(crate) fn leads_to(view: &dyn WatchedStoreView, object: &Value, uid: &str) -> bool {
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

/// Returns the objects whose chain of controllers ends at this uid, nearest first, without the object itself.
/// A kind that is not watched ends a chain.
pub(crate) fn descendants(view: &dyn WatchedStoreView, uid: &str) -> Vec<Arc<ObjectMeta>> {
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

/// Returns the object at which the chain of controllers ends, with its uid: the object itself if it has no
/// controller; `None` if the chain is too long.
pub(crate) fn root(
    view: &dyn WatchedStoreView,
    object: &ObjectMeta,
) -> Option<(ObjectRef, String)> {
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
            // The owner's kind is not watched, or the owner is not in the store: it may well be the end of
            // the chain.
            None => return Some((name, owner.uid.clone())),
        }
    }
    None
}

/// Returns the object that controls `object`, with the uid that the reference names.
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
