//! Short names that are derived from a text: the same text always gets the same name.

use sha2::{Digest as _, Sha256};

/// The characters of a hash: no vowels, so that no words appear. Kubernetes uses the same characters.
const HASH_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The number of characters of a hash: 27^10 values.
const HASH_LENGTH: usize = 10;

/// Returns a short name for a text, valid as a part of object names.
pub(crate) fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let letter = |byte: u8| HASH_LETTERS.get(usize::from(byte) % HASH_LETTERS.len());
    let letters = digest.iter().take(HASH_LENGTH).filter_map(|byte| letter(*byte));
    letters.map(|letter| char::from(*letter)).collect()
}
