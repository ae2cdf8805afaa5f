//! Objects as JSON text from the API server, of which only the metadata is parsed for kube.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope, Resource};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Value, value::RawValue};

/// An object of any kind. kube's own `DynamicObject` takes about nine times the memory of the text.
#[derive(Clone, Debug)]
pub(crate) struct RawObject {
    metadata: ObjectMeta,
    text: Box<RawValue>,
}

impl RawObject {
    /// Makes an object to be sent.
    ///
    /// # Errors
    ///
    /// Fails if the value is not an object with valid `metadata`.
    pub(crate) fn new(object: &Value) -> Result<Self, serde_json::Error> {
        serde_json::from_str(&object.to_string())
    }

    /// Returns the whole object with `apiVersion` and `kind`, which are missing in the items of a list of a
    /// built-in kind.
    ///
    /// # Errors
    ///
    /// Fails if the text is not a JSON object.
    pub(crate) fn value(&self, resource: &ApiResource) -> Result<Value, serde_json::Error> {
        let mut object: serde_json::Map<String, Value> = serde_json::from_str(self.text.get())?;
        let missing = |object: &serde_json::Map<String, Value>, key: &str| {
            object.get(key).and_then(Value::as_str).is_none_or(str::is_empty)
        };
        if missing(&object, "apiVersion") {
            object.insert("apiVersion".to_owned(), resource.api_version.clone().into());
        }
        if missing(&object, "kind") {
            object.insert("kind".to_owned(), resource.kind.clone().into());
        }
        Ok(Value::Object(object))
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct RawObjectMetadata {
            #[serde(default)]
            metadata: ObjectMeta,
        }
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let envelope: RawObjectMetadata =
            serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        Ok(Self { metadata: envelope.metadata, text })
    }
}

impl Serialize for RawObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl Resource for RawObject {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::GroupVersionKind;

    #[test]
    fn an_item_of_a_list_gets_its_kind() {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
        let raw: RawObject = serde_json::from_str(r#"{"metadata":{"name":"a"}}"#).unwrap();
        let value = raw.value(&resource).unwrap();
        assert_eq!(value["apiVersion"], "v1");
        assert_eq!(value["kind"], "Pod");
        assert_eq!(raw.meta().name.as_deref(), Some("a"));
    }
}
