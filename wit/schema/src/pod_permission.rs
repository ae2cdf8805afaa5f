//! The permissions of `grants.podSecurity`: what the Pods that a plugin writes may use beyond their own sandbox.
//!
//! Each of them gives a Pod, and so the plugin that writes its image and command, a part of its node or an
//! identity in the cluster. Without the permission, the host refuses the write.

use core::fmt;

/// Defines [`PodPermission`] with its words from one table.
macro_rules! pod_permissions {
    ($($(#[$doc:meta])* $id:ident = $word:literal,)*) => {
        /// What a Pod that a plugin writes may use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum PodPermission {
            $($(#[$doc])* $id,)*
        }

        impl PodPermission {
            /// All permissions.
            pub const ALL: &[Self] = &[$(Self::$id,)*];

            /// Returns the word for the permission in `grants.podSecurity`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$id => $word,)*
                }
            }
        }
    };
}

pod_permissions! {
    /// `capabilities.add` of a container.
    Capabilities = "capabilities",
    /// `hostIPC`.
    HostIpc = "hostIPC",
    /// `hostNetwork`.
    HostNetwork = "hostNetwork",
    /// Volumes of the node's own file system.
    HostPath = "hostPath",
    /// `hostPID`.
    HostPid = "hostPID",
    /// `hostPort` of a container's port.
    HostPorts = "hostPorts",
    /// `nodeName`: a Pod on a node that no scheduler chose.
    NodeName = "nodeName",
    /// `privileged` and `allowPrivilegeEscalation`, a `procMount` other than `Default`, and
    /// `windowsOptions.hostProcess`.
    Privileged = "privileged",
    /// A service account other than `default`, and the token of any, which a Pod has unless it sets
    /// `automountServiceAccountToken: false`.
    ServiceAccount = "serviceAccount",
}

impl fmt::Display for PodPermission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
