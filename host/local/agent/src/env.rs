//! The environment of a container: literals, keys of ConfigMaps and Secrets, fields of the Pod.
//!
//! This module is pure: the contents of ConfigMaps and Secrets are arguments. It sets no Service environment
//! variables (`enableServiceLinks`), because Services resolve by name through `/etc/hosts`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVarSource, Pod};

use crate::config_source::{self, ConfigSourceError, ConfigSourceRef, ConfigSourceStates};
use crate::downward::{self, DownwardApiError, DownwardApiPlacement};
use crate::expand::expand;

/// Why the environment of a container cannot be built yet. Reported as `CreateContainerConfigError`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    #[error(transparent)]
    Reference(#[from] ConfigSourceError),
    #[error(transparent)]
    Field(#[from] DownwardApiError),
    #[error(
        "environment variable `{0}` has a source that the local node agent does not support: use configMapKeyRef, \
         secretKeyRef, fieldRef or resourceFieldRef"
    )]
    UnknownSource(String),
}

/// The inputs of an environment.
#[derive(Clone, Copy)]
pub(crate) struct EnvSources<'a> {
    pub pod: &'a Pod,
    pub placement: &'a DownwardApiPlacement,
    pub references: &'a ConfigSourceStates,
    /// The variables of the image. The container's own variables override them.
    pub image: &'a BTreeMap<String, String>,
}

/// Returns the whole environment of `container`, with references expanded in declaration order.
pub(crate) fn environment(
    input: EnvSources<'_>,
    container: &Container,
) -> Result<BTreeMap<String, String>, EnvError> {
    let mut declared = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        add_all(&mut declared, source, input.references)?;
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => from_source(input, container, &variable.name, source)?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &declared)),
        };
        if let Some(value) = value {
            declared.insert(variable.name.clone(), value);
        }
    }
    let mut all = input.image.clone();
    all.extend(declared);
    Ok(all)
}

fn add_all(
    declared: &mut BTreeMap<String, String>,
    source: &EnvFromSource,
    references: &ConfigSourceStates,
) -> Result<(), ConfigSourceError> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let config_map = source.config_map_ref.as_ref();
    let secret = source.secret_ref.as_ref();
    let named = config_map
        .map(|from| (ConfigSourceRef::config_map(&from.name), from.optional))
        .into_iter()
        .chain(secret.map(|from| (ConfigSourceRef::secret(&from.name), from.optional)));
    for (key, optional) in named {
        let data = config_source::data(references, &key, optional == Some(true))?;
        for (name, value) in data.into_iter().flatten() {
            let value = String::from_utf8_lossy(value).into_owned();
            declared.insert(format!("{prefix}{name}"), value);
        }
    }
    Ok(())
}

fn from_source(
    input: EnvSources<'_>,
    container: &Container,
    name: &str,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    let key_of = |reference: ConfigSourceRef, key: &str, optional: Option<bool>| {
        let optional = optional == Some(true);
        let data = config_source::data(input.references, &reference, optional)?;
        match data.and_then(|data| data.get(key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => Err(ConfigSourceError::NoKey { reference, key: key.to_owned() }),
        }
    };
    if let Some(from) = &source.config_map_key_ref {
        return Ok(key_of(ConfigSourceRef::config_map(&from.name), &from.key, from.optional)?);
    }
    if let Some(from) = &source.secret_key_ref {
        return Ok(key_of(ConfigSourceRef::secret(&from.name), &from.key, from.optional)?);
    }
    if let Some(from) = &source.field_ref {
        return Ok(Some(downward::field(input.pod, input.placement, &from.field_path)?));
    }
    if let Some(from) = &source.resource_field_ref {
        return Ok(Some(downward::resource(input.pod, input.placement, Some(container), from)?));
    }
    Err(EnvError::UnknownSource(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::config_source::ConfigSourceState;

    fn references() -> ConfigSourceStates {
        let present = |key: &str, value: &str| {
            ConfigSourceState::Present(Arc::new(BTreeMap::from([(key.into(), value.into())])))
        };
        BTreeMap::from([
            (ConfigSourceRef::config_map("settings"), present("mode", "fast")),
            (ConfigSourceRef::secret("auth"), present("password", "s3cret")),
            (ConfigSourceRef::config_map("absent"), ConfigSourceState::Missing),
        ])
    }

    #[track_caller]
    fn check(container: Value, expected: Result<&[(&str, &str)], &str>) {
        let mut container = container;
        container["name"] = "c".into();
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a-0", "namespace": "ns"}}))
                .unwrap();
        let placement = downward::tests::placement();
        let image = BTreeMap::from([("FROM_IMAGE".to_owned(), "1".to_owned())]);
        let input = EnvSources {
            pod: &pod,
            placement: &placement,
            references: &references(),
            image: &image,
        };
        let found = environment(input, &container).map_err(|error| error.to_string());
        let expected = expected.map_err(str::to_owned).map(|pairs| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            pairs.chain(image.clone()).collect::<BTreeMap<_, _>>()
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn later_variables_can_refer_to_earlier_ones() {
        let env = json!({"env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"}, {"name": "C", "value": "3"}]});
        check(env, Ok(&[("A", "1"), ("B", "1$(C)"), ("C", "3")]));
    }

    #[test]
    fn every_source_is_read() {
        let env = json!({
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}},
                        {"configMapRef": {"name": "absent", "optional": true}}],
            "env": [
                {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "auth", "key": "password"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "URL", "value": "$(IP):6379"},
                {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "auth", "key": "x", "optional": true}}}]});
        let expected = [
            ("P_mode", "fast"),
            ("PW", "s3cret"),
            ("IP", "127.23.1.7"),
            ("URL", "127.23.1.7:6379"),
        ];
        check(env, Ok(&expected));
    }

    #[test]
    fn a_missing_source_is_named() {
        let from = |source: Value| json!({"env": [{"name": "A", "valueFrom": source}]});
        check(
            from(json!({"configMapKeyRef": {"name": "absent", "key": "k"}})),
            Err("configmap \"absent\" not found"),
        );
        check(
            from(json!({"secretKeyRef": {"name": "auth", "key": "k"}})),
            Err("couldn't find key k in secret \"auth\""),
        );
        check(
            from(json!({"secretKeyRef": {"name": "later", "key": "k"}})),
            Err("secret \"later\" has not been read yet"),
        );
    }
}
