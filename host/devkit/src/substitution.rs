//! Replaces the names of the sample by those of a new project, and derives names of kinds.

/// Replaces each word by its substitute in one scan of the text: substitutes are not searched again, and of two
/// words that begin at the same position the longer one is replaced.
pub(crate) fn substitute(text: &str, words: &[(&str, &str)]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let matching = words.iter().filter(|(word, _)| rest.starts_with(word));
        if let Some((word, substitute_text)) = matching.max_by_key(|(word, _)| word.len()) {
            result.push_str(substitute_text);
            rest = rest.get(word.len()..).unwrap_or_default();
        } else {
            result.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        }
    }
    result
}

/// Derives a kind from a plugin's name: `my-runbook` becomes `MyRunbook`.
pub(crate) fn kind_of(name: &str) -> String {
    let capital = |part: &str| {
        let mut letters = part.chars();
        letters.next().map_or_else(String::new, |first| {
            first.to_ascii_uppercase().to_string() + letters.as_str()
        })
    };
    name.split('-').map(capital).collect()
}

/// Returns the plural of a lower-case word, formed as those of Kubernetes' own kinds.
pub(crate) fn plural_of(singular: &str) -> String {
    let is_vowel = |letter: char| "aeiou".contains(letter);
    let ends_in_sibilant = ["s", "x", "z", "ch", "sh"].iter().any(|end| singular.ends_with(end));
    match singular.strip_suffix('y') {
        Some(stem) if !stem.ends_with(is_vowel) => format!("{stem}ies"),
        _ if ends_in_sibilant => format!("{singular}es"),
        _ => format!("{singular}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced_once_and_the_longer_first() {
        let words = [("ab", "abc"), ("abc", "x"), ("c", "ab")];
        for (text, expected) in [("ab", "abc"), ("abc", "x"), ("cc", "abab"), ("ä ab", "ä abc")] {
            assert_eq!(substitute(text, &words), expected, "{text}");
        }
    }

    #[test]
    fn kinds_and_plurals_are_formed_as_kubernetes_does() {
        let rows = [
            ("my-runbook", "MyRunbook", "myrunbooks"),
            ("policy", "Policy", "policies"),
            ("gateway", "Gateway", "gateways"),
            ("ingress", "Ingress", "ingresses"),
            ("a--b", "AB", "abs"),
        ];
        for (name, kind, plural) in rows {
            assert_eq!(kind_of(name), kind);
            assert_eq!(plural_of(&kind.to_lowercase()), plural, "{name}");
        }
    }
}
