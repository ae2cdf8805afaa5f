//! Finds the known word that a misspelt word probably means.

use alloc::vec::Vec;

/// Returns the known word with the smallest edit distance; `None` if none is close enough.
#[must_use]
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const DISTANCE_MAX: usize = 3;
    // A third of the word at most: a short word has too little left after more changes.
    let distance_max = DISTANCE_MAX.min(wrong.len() / 3);
    let distances = known.into_iter().map(|known| (distance(wrong, known), known));
    distances.filter(|(distance, _)| *distance <= distance_max).min().map(|(_, known)| known)
}

/// Returns the edit distance (Levenshtein) of two words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            *cell = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            (diagonal, left) = (above, *cell);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_similar_words_are_suggested() {
        let known = ["get", "list", "apply", "apply-status"];
        let rows = [
            ("aply", Some("apply")),
            ("applystatus", Some("apply-status")),
            ("lst", Some("list")),
            ("patch", None),
            ("", None),
        ];
        for (wrong, expected) in rows {
            assert_eq!(nearest(wrong, known), expected, "{wrong}");
        }
        assert_eq!(
            (distance("kitten", "sitting"), distance("", "abc"), distance("hz", "hz")),
            (3, 3, 0)
        );
    }
}
