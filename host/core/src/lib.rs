//! The types that the host's parts share: keys, calls, answers, reports, and the ports as traits.
//!
//! A guest call becomes a [`Call`]; the gate performs it through the [ports](port) and returns an [`Answer`]; the
//! [`Recording`] of both becomes a [`ReconcileReport`]. This crate does no I/O and knows no Kubernetes client, no Redis
//! client and no Wasm runtime, so that code written against it can be tested against a fake.
//!
//! Invariants:
//! - Every effect of a plugin is a [`Call`], every result an [`Answer`]; both are serialisable.
//! - A recorded call is found by its [`RecordedCallKey`], never by its position.
//! - A secret value never appears in a call or an answer: only its fingerprint.

mod about;
mod accepted;
mod answer;
mod call;
pub mod condition;
mod error_chain;
mod name;
mod object;
mod perform;
pub mod plugin_report;
pub mod port;
mod recording;
pub mod report;
mod reserved_object;
mod resp;
pub mod size;
pub mod step;
mod subscribed_wakes;

pub use accepted::AcceptedSpec;
pub use answer::{Answer, CallError, Reply};
pub use call::{
    Call, EventType, KubernetesCall, ObjectRef, Pipeline, PluginRuntimeCall, ReadMode, RedisCall,
};
pub use error_chain::ErrorChain;
pub use name::{PluginName, PluginNameError, ReconcileKey, RevisionDigest};
pub use object::{
    ANNOTATION_PREFIX, CONFIRM_DEAD, MissingObjectField, ObjectMeta, OwnerReference, PAUSED,
    WatchedStoreObject,
};
pub use perform::{BoxedFuture, HostCalls, PluginCallerIdentity, WriteMode};
pub use recording::{CallDigest, CallRecord, RecordedCall, RecordedCallKey, Recording};
pub use report::{ReconcileHeader, ReconcileReport, ReconcileResult};
pub use reserved_object::reserved_object;
pub use resp::{RespNode, RespReply};
pub use step::{PlanStep, PlanStepEffect};
pub use subscribed_wakes::SubscribedWakes;
