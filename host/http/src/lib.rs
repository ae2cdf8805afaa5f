//! The common parts of this product's HTTP servers: the embedded API server and the host's admin server.
//!
//! ```text
//! accept_each ─► serve_http1 ─► HttpService of the server ─► AllowedHosts, TokenDigest ─► read_body ─► respond
//! ```
//!
//! It accepts connections within limits, checks the `Host` header and the token, decodes URLs, and writes private
//! files. It knows no routes and no documents: the servers define them.
//!
//! Invariants:
//! - Every connection is a task of one set, which is joined when its listener ends.
//! - Headers and bodies are read with a deadline, and bodies with a limit of their size.
//! - The time that the check of a token takes does not depend on the token.

mod body;
mod escape;
mod file;
mod hosts;
mod listener;
mod token;

pub use body::{BodyError, BodyLimits, ResponseBody, read_body, respond, whole};
pub use escape::{decode_path, decode_query, encode_query};
pub use file::{private_directory, write_private};
pub use hosts::{AllowedHostHeaders, HostHeaderError};
pub use listener::{HttpService, ListenerLimits, accept_each, serve_http1};
pub use token::{RandomError, TokenDigest, bearer, new_token};
