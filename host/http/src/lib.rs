//! What every HTTP server of this product does alike: accepts connections, bounds what they may use, asks
//! who may speak, and keeps secrets in private files.
//!
//! It knows no route and no document: the embedded API server and the host's admin server bring these.
//!
//! Invariants:
//! - Every connection is a task of one set that is joined when its listener ends.
//! - Nothing is read without a deadline and a bound.
//! - The time that a token's check takes tells nothing about the token.

mod body;
mod escape;
mod file;
mod hosts;
mod listener;
mod token;

pub use body::{BodyError, BodyLimits, ResponseBody, read_body, respond, whole};
pub use escape::{decode_path, decode_query};
pub use file::{private_directory, write_private};
pub use hosts::{AllowedHosts, UnknownHostError};
pub use listener::{HttpService, ListenerLimits, accept_each, serve_http1};
pub use token::{RandomError, TokenDigest, bearer, new_token};
