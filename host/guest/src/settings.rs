//! The `Plugin` object: source file, digest, grants, limits and parameters of a plugin.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_schema::manifest::Grants;

use crate::GuestLimits;

/// A `Plugin` object, as written in `NAME.yaml`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginYamlObject {
    /// `tholepin.dev/v1alpha1`.
    pub api_version: String,
    /// `Plugin`.
    pub kind: String,
    /// The name, which must equal that of the file. Labels and annotations are allowed and ignored.
    pub metadata: PluginYamlMetadata,
    /// The settings.
    pub spec: PluginSettings,
}

/// The metadata of a `Plugin` object.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PluginYamlMetadata {
    /// The plugin's name.
    pub name: String,
}

/// The settings of a plugin.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginSettings {
    /// The source of the component.
    pub source: ComponentSource,
    /// The component's SHA-256 in hex. If set, a component with another digest is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What the plugin may do.
    pub grants: GrantSetting,
    /// The limits of one call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitSettings>,
    /// The parameters of the plugin, which must match the schema in its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
}

/// The source of a component.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentSource {
    /// The name of a file in the directory of the YAML file, without a path.
    pub file: String,
}

/// The grants of a plugin.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(try_from = "Value", into = "Value")]
pub enum GrantSetting {
    /// Everything that the manifest requests (`asRequested`); only where the host allows this value.
    AsRequested,
    /// Exactly these grants.
    Granted(Grants),
}

/// The YAML value of [`GrantSetting::AsRequested`].
const AS_REQUESTED: &str = "asRequested";

impl TryFrom<Value> for GrantSetting {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        if value == AS_REQUESTED {
            return Ok(Self::AsRequested);
        }
        serde_json::from_value(value).map(Self::Granted).map_err(|error| {
            format!("grants: {error}; use `{AS_REQUESTED}`, or list `kubernetes`, `redis`, `probes`, `safety`, \
                 `podSecurity` and `secrets` grants")
        })
    }
}

impl From<GrantSetting> for Value {
    fn from(setting: GrantSetting) -> Self {
        match setting {
            GrantSetting::AsRequested => Self::from(AS_REQUESTED),
            // Cannot fail: all keys are strings.
            GrantSetting::Granted(grants) => serde_json::to_value(grants).unwrap_or_default(),
        }
    }
}

/// The limits of one call; an absent limit has the host's default.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitSettings {
    /// Linear memory in MiB.
    #[serde(default, rename = "memoryMiB", skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// The time of the whole call in milliseconds, including waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_clock_ms: Option<u32>,
    /// The compute time between two host calls, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_ms: Option<u32>,
}

impl LimitSettings {
    /// Returns the limits, with the host's default for each that is not set.
    ///
    /// # Errors
    ///
    /// Fails if a limit is out of range, with a message that names it.
    pub(crate) fn limits(self) -> Result<GuestLimits, String> {
        let Self { memory_mib, wall_clock_ms, compute_ms } = self;
        let default = GuestLimits::default();
        let memory_bytes = match memory_mib {
            Some(mib) => usize::try_from(mib).unwrap_or(usize::MAX).saturating_mul(1 << 20),
            None => default.memory_bytes,
        };
        if !(1 << 20..=GuestLimits::MEMORY_BYTES_MAX).contains(&memory_bytes) {
            return Err(format!(
                "spec.limits.memoryMiB must be 1 to {}",
                GuestLimits::MEMORY_BYTES_MAX >> 20
            ));
        }
        let duration = |name: &str, ms: Option<u32>, default: Duration, max: Duration| {
            let limit = ms.map_or(default, |ms| Duration::from_millis(ms.into()));
            if limit.is_zero() || max < limit {
                return Err(format!("spec.limits.{name} must be 1 to {}", max.as_millis()));
            }
            Ok(limit)
        };
        Ok(GuestLimits {
            memory_bytes,
            wall_clock: duration(
                "wallClockMs",
                wall_clock_ms,
                default.wall_clock,
                GuestLimits::WALL_CLOCK_MAX,
            )?,
            compute: duration("computeMs", compute_ms, default.compute, GuestLimits::COMPUTE_MAX)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "
apiVersion: tholepin.dev/v1alpha1
kind: Plugin
metadata: {name: a, labels: {team: x}}
spec:
  source: {file: a.wasm}
  grants:
    kubernetes:
      - {apiVersion: v1, kind: ConfigMap, verbs: [get]}
  limits: {memoryMiB: 32, wallClockMs: 500}
  parameters: {suffix: '!'}
";

    #[test]
    fn a_plugin_object_is_parsed() {
        let plugin: PluginYamlObject = serde_saphyr::from_str(WHOLE).unwrap();
        assert_eq!(plugin.spec.source.file, "a.wasm");
        assert!(matches!(plugin.spec.grants, GrantSetting::Granted(_)));
        let limits = plugin.spec.limits.unwrap().limits().unwrap();
        assert_eq!((limits.memory_bytes, limits.wall_clock.as_millis()), (32 << 20, 500));
        assert_eq!(limits.compute, GuestLimits::default().compute);
    }

    #[test]
    fn an_invalid_field_is_named() {
        let rows = [
            (WHOLE.replace("limits:", "limit:"), "limit"),
            (WHOLE.replace("verbs:", "verb:"), "verb"),
            (WHOLE.replace("kubernetes:\n", "kubernets:\n"), "asRequested"),
            (WHOLE.replace("apiVersion: v1, ", ""), "apiVersion"),
        ];
        for (text, expected) in rows {
            let error = serde_saphyr::from_str::<PluginYamlObject>(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_limit_out_of_range_is_refused() {
        for limits in [
            LimitSettings { memory_mib: Some(0), ..LimitSettings::default() },
            LimitSettings { memory_mib: Some(1025), ..LimitSettings::default() },
            LimitSettings { wall_clock_ms: Some(600_001), ..LimitSettings::default() },
            LimitSettings { compute_ms: Some(0), ..LimitSettings::default() },
        ] {
            assert!(limits.limits().is_err(), "{limits:?}");
        }
    }
}
