//! The SDK for plugins in Rust: the host's functions as the trait [`Host`], and the trait [`Reconciler`],
//! which a plugin implements and exports with [`export!`].
//!
//! A plugin calls the host only through [`Host`]. The same code therefore runs in the host, where [`Host`]
//! calls the WIT imports, and in a native test, where a [`ReplayHost`] answers from a recording or from
//! answers written by hand.
//!
//! ```
//! use tholepin_sdk::{
//!     Host, Manifest, ReconcileFailure, ReconcileOutcome, ReconcileRequest, Reconciler, Violation,
//! };
//!
//! struct Greeter;
//!
//! impl Reconciler for Greeter {
//!     fn describe() -> Manifest {
//!         Manifest { name: "greeter".to_owned(), version: "1".to_owned(), ..tholepin_sdk::manifest() }
//!     }
//!
//!     fn reconcile(
//!         host: &dyn Host,
//!         request: ReconcileRequest,
//!     ) -> Result<ReconcileOutcome, ReconcileFailure> {
//!         let seen = request.object["spec"]["text"].as_str().unwrap_or_default();
//!         host.info(&format!("saw {seen}"));
//!         Ok(ReconcileOutcome { summary: "greeted".to_owned(), ..ReconcileOutcome::default() })
//!     }
//! }
//!
//! tholepin_sdk::export!(Greeter);
//! ```
//!
//! Invariants:
//! - The SDK makes no decisions: it has no retries, no cache, and no defaults that change the effect of a
//!   call.
//! - An error of a host call is a value, never a panic.
//!
//! The SDK does not schedule or keep anything between calls: each call runs in a fresh instance.

mod document;
mod error;
#[doc(hidden)]
pub mod guest;
#[cfg(any(test, target_family = "wasm"))]
mod heap;
mod host;
mod object;
mod reconciler;
mod replayed;
mod reply;
pub mod time;
pub mod topology;
#[cfg(target_family = "wasm")]
mod wit;

pub use document::JsonDocument;
pub use error::{Error, Retry};
pub use host::{DeleteOptions, EventType, Host, LogLevel, ObjectListQuery, Pipeline, ReadMode};
pub use object::{KindName, ObjectRef};
pub use reconciler::{Reconciler, manifest};
pub use replayed::{RecordingParseError, ReplayHost};
pub use reply::{RedisReply, ReplyNode};
pub use serde_json;
pub use tholepin_schema as schema;
pub use tholepin_schema::{
    fact::{Fact, FactCheckOutcome, FactFieldTest, FactSubject, WaitOutcome},
    manifest::{
        GrantScope, Grants, KubernetesGrant, Manifest, ReconciledKind, RedisGrants, SafetyPaths,
        WatchMapping, WatchedKind,
    },
    probe::{NetworkProbeOutcome, PodPortProbe},
    reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation, WakeTrigger},
};

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub use wit::bindings;

/// Exports a [`Reconciler`] as the plugin of this crate. Use it once per crate; the crate must be a `cdylib`.
///
/// Expands to nothing unless the crate is built for Wasm, so that its tests link natively.
#[macro_export]
macro_rules! export {
    ($reconciler:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
    $crate::bindings::export!(Exported with_types_in $crate::bindings);

            struct Exported;

            impl $crate::bindings::exports::tholepin::plugin::description::Guest for Exported {
                fn describe() -> String {
                    $crate::guest::describe::<$reconciler>()
                }
            }

            impl $crate::bindings::exports::tholepin::plugin::reconciliation::Guest for Exported {
                fn reconcile(request: String) -> Result<String, String> {
                    $crate::guest::reconcile::<$reconciler>(&request)
                }

                fn validate(old: Option<String>, new: String) -> String {
                    $crate::guest::validate::<$reconciler>(old.as_deref(), &new)
                }
            }
        };
    };
}
