//! Knows who may talk to the server: bearer tokens, kept as digests, and the kubeconfigs that carry
//! them.
//!
//! Who has a token may do everything: there is one machine and one user. The name behind the token
//! only says in the audit log who wrote.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tholepin_http::{RandomError, TokenDigest, bearer, new_token, write_private};

/// The user of the kubeconfig that is always written.
pub(crate) const ADMIN: &str = "admin";

/// The most tokens kept; they are handed out to our own parts only.
const TOKENS_MAX: usize = 1_000;

/// The tokens handed out.
#[derive(Default)]
pub(crate) struct TokenStore {
    users: Mutex<BTreeMap<TokenDigest, String>>,
}

/// Why a token could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The operating system gave no random bytes.
    #[error(transparent)]
    NoRandom(#[from] RandomError),
    /// Too many were made.
    #[error("{TOKENS_MAX} tokens are handed out already; keep one per user")]
    TooMany,
}

impl TokenStore {
    /// Makes a new token for `user`: 64 hex digits.
    pub(crate) fn issue(&self, user: &str) -> Result<String, TokenError> {
        let token = new_token()?;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if TOKENS_MAX <= users.len() {
            return Err(TokenError::TooMany);
        }
        users.insert(TokenDigest::of(&token), user.to_owned());
        Ok(token)
    }

    /// The user whose token an `Authorization` header carries.
    ///
    /// Looks up the digest, so the time it takes tells nothing about the token.
    pub(crate) fn user(&self, authorization: Option<&str>) -> Option<String> {
        let token = TokenDigest::of(bearer(authorization)?);
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.get(&token).cloned()
    }
}

/// Writes a kubeconfig (JSON, which is YAML) that only this user can read.
///
/// # Errors
///
/// The file cannot be written.
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
    fn only_a_token_handed_out_names_a_user() {
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
