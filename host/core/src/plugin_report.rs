//! The reports of the plugin registry: the stage of each plugin, and why a revision does not serve.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{PluginName, RevisionDigest};

/// How far a revision has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RevisionStage {
    /// Settings and component were read.
    Fetched,
    /// The component has the digest that the settings pin, if they do.
    Verified,
    /// It is machine code.
    Compiled,
    /// It links, describes itself, and fits its settings.
    Checked,
    /// It serves.
    Active,
    /// Its files are gone; it serves no more.
    Unloaded,
}

/// Why a revision does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RejectReason {
    /// There is a component without a `Plugin` object.
    SettingsMissing,
    /// The `Plugin` object cannot be read or names something impossible.
    SettingsInvalid,
    /// The component's file cannot be read.
    ComponentMissing,
    /// The component is not the one that the settings pin.
    DigestMismatch,
    /// It is no component, or too large.
    NotAComponent,
    /// It does not compile.
    CompileFailed,
    /// It imports what this host does not offer.
    UnknownImport,
    /// Its imports or exports do not fit the contract.
    NotLinkable,
    /// `describe` trapped, broke a limit, or gave no manifest.
    DescribeFailed,
    /// The manifest contradicts itself or its file.
    ManifestInvalid,
    /// It asks for more than it was granted.
    GrantsMissing,
    /// Another plugin reconciles this kind.
    KindClaimed,
    /// The parameters do not fit the schema in the manifest.
    ParametersInvalid,
    /// It served, was taken back, and an earlier revision serves.
    TakenBack,
    /// It served, and a person had another revision serve in its place.
    RolledBack,
    /// There is a `Plugin` object and no file of it.
    NoFile,
}

/// The revision that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingRevision {
    /// Which revision.
    pub revision: RevisionDigest,
    /// The SHA-256 of its component, in hex.
    pub component: String,
    /// The version that its manifest tells.
    pub version: String,
    /// When it began to serve, in milliseconds since 1970.
    pub since_ms: u64,
    /// The revision that served before it in this process.
    pub previous: Option<RevisionDigest>,
}

/// What happened to a plugin.
#[derive(Clone, Debug)]
pub struct PluginReport {
    /// Which plugin.
    pub name: PluginName,
    /// The last stage that the newest revision reached; absent if it reached none.
    pub stage: Option<RevisionStage>,
    /// The newest revision, as far as it is known.
    pub candidate: Option<RevisionDigest>,
    /// The revision that serves, if one does.
    pub serving: Option<ServingRevision>,
    /// Why the newest revision does not serve; absent while it does, or is on its way.
    pub reason: Option<RejectReason>,
    /// The reason in words, with the way out; empty without a reason.
    pub message: String,
    /// The `Plugin` object of the file, if it could be read.
    pub object: Option<Arc<Value>>,
}

/// A component that the cache does not have is compiled, which takes long enough for people to wonder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompilationNotice {
    /// Which plugin.
    pub plugin: PluginName,
    /// The size of its component.
    pub bytes: usize,
    /// How long it took; absent while it goes on.
    pub took: Option<Duration>,
}

impl PluginReport {
    /// Which revision serves, if one does.
    #[must_use]
    pub fn active(&self) -> Option<&RevisionDigest> {
        self.serving.as_ref().map(|serving| &serving.revision)
    }
}

impl RevisionStage {
    /// The stage as status and labels show it.
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

impl RejectReason {
    /// The reason as status, events and labels show it.
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

impl fmt::Display for RevisionStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
