//! The reports of the plugin registry: the stage of each plugin, and why a revision does not serve.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{PluginName, RevisionDigest};

/// A stage on the way of a revision from its files to serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RevisionLoadStage {
    /// The settings and the component were read.
    Fetched,
    /// The component has the digest in the settings, or the settings have none.
    Verified,
    /// The component was compiled.
    Compiled,
    /// The component links, `describe` succeeded, and the manifest matches the settings.
    Checked,
    /// The revision serves.
    Active,
    /// The settings were removed, so the plugin no longer serves.
    Unloaded,
}

/// The reason why a revision does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginRejectReason {
    /// A component has no `Plugin` object.
    SettingsMissing,
    /// The `Plugin` object cannot be read or has an invalid value.
    SettingsInvalid,
    /// The component file cannot be read.
    ComponentMissing,
    /// The component has another digest than the settings.
    DigestMismatch,
    /// The file is not a component, or it is too large.
    NotAComponent,
    /// The component does not compile.
    CompileFailed,
    /// The component imports an interface that this host does not offer.
    UnknownImport,
    /// The imports or exports of the component do not match the contract.
    NotLinkable,
    /// `describe` trapped, exceeded a limit, or returned no manifest.
    DescribeFailed,
    /// The manifest contradicts itself or its file name.
    ManifestInvalid,
    /// The manifest requests more than the settings grant.
    GrantsMissing,
    /// Another plugin already reconciles this kind.
    KindClaimed,
    /// The parameters do not match the schema in the manifest.
    ParametersInvalid,
    /// The revision served and failed; the host rolled it back by itself, and an earlier revision serves.
    TakenBack,
    /// A person rolled the revision back, and another revision serves.
    RolledBack,
    /// A `Plugin` object exists in Kubernetes, but no file for it.
    NoFile,
}

/// The revision that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingRevision {
    /// The revision.
    pub revision: RevisionDigest,
    /// The SHA-256 of its component, in hex.
    pub component: String,
    /// The version in its manifest.
    pub version: String,
    /// When it began to serve, in milliseconds since 1970.
    pub since_ms: u64,
    /// The revision that served before it in this process.
    pub previous: Option<RevisionDigest>,
}

/// The state of a plugin after one stage or failure.
#[derive(Clone, Debug)]
pub struct PluginStageReport {
    /// The plugin.
    pub name: PluginName,
    /// The last stage that the newest revision reached; absent if it reached none.
    pub stage: Option<RevisionLoadStage>,
    /// The newest revision, if its component could be read.
    pub candidate: Option<RevisionDigest>,
    /// The revision that serves, if one does.
    pub serving: Option<ServingRevision>,
    /// Why the newest revision does not serve; absent while it serves or is still being checked.
    pub reason: Option<PluginRejectReason>,
    /// The reason for people, with how to fix it; empty without a reason.
    pub message: String,
    /// The `Plugin` object of the file, if it could be read.
    pub object: Option<Arc<Value>>,
}

/// The start or the end of a compilation, which takes long enough that a user should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompilationNotice {
    /// The plugin.
    pub plugin: PluginName,
    /// The size of the component.
    pub bytes: usize,
    /// The duration of the compilation; absent at its start.
    pub took: Option<Duration>,
}

impl PluginStageReport {
    /// Returns the serving revision, if there is one.
    #[must_use]
    pub fn active(&self) -> Option<&RevisionDigest> {
        self.serving.as_ref().map(|serving| &serving.revision)
    }
}

impl RevisionLoadStage {
    /// Returns the stage as it appears in the status and in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "Fetched",
            Self::Verified => "Verified",
            Self::Compiled => "Compiled",
            Self::Checked => "Checked",
            Self::Active => "Active",
            Self::Unloaded => "Unloaded",
        }
    }
}

impl PluginRejectReason {
    /// Returns the reason as it appears in the status, in events and in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SettingsMissing => "SettingsMissing",
            Self::SettingsInvalid => "SettingsInvalid",
            Self::ComponentMissing => "ComponentMissing",
            Self::DigestMismatch => "DigestMismatch",
            Self::NotAComponent => "NotAComponent",
            Self::CompileFailed => "CompileFailed",
            Self::UnknownImport => "UnknownImport",
            Self::NotLinkable => "NotLinkable",
            Self::DescribeFailed => "DescribeFailed",
            Self::ManifestInvalid => "ManifestInvalid",
            Self::GrantsMissing => "GrantsMissing",
            Self::KindClaimed => "KindClaimed",
            Self::ParametersInvalid => "ParametersInvalid",
            Self::TakenBack => "TakenBack",
            Self::RolledBack => "RolledBack",
            Self::NoFile => "NoFile",
        }
    }
}

impl fmt::Display for RevisionLoadStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for PluginRejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
