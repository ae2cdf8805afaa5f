//! Short names that follow from a text, so that the same text always gets the same name.

use sha2::{Digest as _, Sha256};

/// Letters of a hash in a name: no vowels, so no words. As Kubernetes has them.
const HASH_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Letters in a hash: 27^10 values.
const HASH_LENGTH: usize = 10;

/// A short name for a text, safe in object names.
pub(crate) fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let letter = |byte: u8| HASH_LETTERS.get(usize::from(byte) % HASH_LETTERS.len());
    let letters = digest.iter().take(HASH_LENGTH).filter_map(|byte| letter(*byte));
    letters.map(|letter| char::from(*letter)).collect()
}
