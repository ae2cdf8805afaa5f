//! Bearer tokens, stored as digests, and the kubeconfigs that contain them.
//!
//! Every token gives full access, because the server is for one machine and one user. The user of a token is
//! recorded in the audit log and serves no other purpose.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tholepin_http::{RandomError, TokenDigest, bearer, new_token, write_private};

/// The user of the kubeconfig that the server writes at its start.
pub(crate) const ADMIN: &str = "admin";

/// The most tokens; they are issued only to parts of this program.
const TOKENS_MAX: usize = 1_000;

/// The issued tokens.
#[derive(Default)]
pub(crate) struct TokenStore {
    users: Mutex<BTreeMap<TokenDigest, String>>,
}

/// The error of issuing a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenIssueError {
    /// The operating system returned no random bytes.
    #[error(transparent)]
    NoRandom(#[from] RandomError),
    /// The limit on tokens is reached.
    #[error("{TOKENS_MAX} tokens are issued already; issue one per user and reuse it")]
    TooMany,
}

impl TokenStore {
    /// Issues a new token for `user`: 64 hex digits.
    pub(crate) fn issue(&self, user: &str) -> Result<String, TokenIssueError> {
        let token = new_token()?;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if TOKENS_MAX <= users.len() {
            return Err(TokenIssueError::TooMany);
        }
        users.insert(TokenDigest::of(&token), user.to_owned());
        Ok(token)
    }

    /// Returns the user of the token in an `Authorization` header.
    ///
    /// The lookup compares digests, so its duration reveals nothing about the token.
    pub(crate) fn user(&self, authorization: Option<&str>) -> Option<String> {
        let token = TokenDigest::of(bearer(authorization)?);
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.get(&token).cloned()
    }
}

/// Writes a kubeconfig (as JSON, which is valid YAML) that only this system user can read.
///
/// # Errors
///
/// Fails if the file cannot be written.
pub(crate) fn write_kubeconfig(
    path: &Path,
    address: SocketAddr,
    authority_pem: &str,
    user: &str,
    token: &str,
) -> io::Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tholepin", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": STANDARD.encode(authority_pem),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "tholepin", "context": {
            "cluster": "tholepin", "user": user, "namespace": "default",
        }}],
        "current-context": "tholepin",
    });
    write_private(path, format!("{config:#}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_tokens_is_limited() {
        let credentials = TokenStore::default();
        for _ in 0..TOKENS_MAX {
            credentials.issue("agent").unwrap();
        }
        assert!(matches!(credentials.issue("agent"), Err(TokenIssueError::TooMany)));
    }

    #[test]
    fn only_an_issued_token_identifies_a_user() {
        let credentials = TokenStore::default();
        let token = credentials.issue("agent").unwrap();
        let cases = [
            (Some(format!("Bearer {token}")), Some("agent")),
            (Some(format!("Bearer {token}0")), None),
            (Some(format!("Basic {token}")), None),
            (Some(token), None),
            (None, None),
        ];
        for (header, expected) in cases {
            assert_eq!(credentials.user(header.as_deref()).as_deref(), expected, "{header:?}");
        }
    }
}
