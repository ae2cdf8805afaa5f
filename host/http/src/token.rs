//! Bearer tokens, which are made of random bytes of the operating system and kept as digests.

use rand::{
    TryRng,
    rngs::{SysError, SysRng},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The operating system returned no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system returns no random bytes")]
pub struct RandomError(#[source] SysError);

/// Returns a new token of 32 random bytes, as 64 hex digits.
///
/// # Errors
///
/// Fails if the operating system returns no random bytes.
pub fn new_token() -> Result<String, RandomError> {
    let mut secret = [0_u8; 32];
    SysRng.try_fill_bytes(&mut secret).map_err(RandomError)?;
    Ok(secret.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns the token of an `Authorization` header, or `None` if its scheme is not `Bearer`.
#[must_use]
pub fn bearer(authorization: Option<&str>) -> Option<&str> {
    let (scheme, token) = authorization?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The SHA-256 digest of a token. It has an order, so that it can be the key of a map: the time of a lookup depends
/// on the digest only, from which the token cannot be derived.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Returns the digest of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Returns true if this is the digest of that token, in a time that depends on neither.
    #[must_use]
    pub fn is_of(&self, token: &str) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_matches_its_digest() {
        let (token, other) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!(token.len(), 64);
        let digest = TokenDigest::of(&token);
        assert!(digest.is_of(&token));
        for wrong in [&other, "", &token[..63], &token.to_uppercase()] {
            assert!(!digest.is_of(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_read_from_a_bearer_header_only() {
        let rows = [
            (Some("Bearer a"), Some("a")),
            (Some("bearer  a "), Some("a")),
            (Some("Basic a"), None),
            (Some("a"), None),
            (None, None),
        ];
        for (header, expected) in rows {
            assert_eq!(bearer(header), expected, "{header:?}");
        }
    }
}
