//! The syntax of names, label keys and label values, with the error texts of the real server.

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const TOO_LONG_63: &str = "must be no more than 63 characters";
const TOO_LONG_253: &str = "must be no more than 253 characters";

/// Checks that a name is a label of RFC 1123: `my-name`, at most 63 characters.
///
/// # Errors
///
/// Returns the required syntax if the name does not have it.
pub fn is_dns1123_label(name: &str) -> Result<(), &'static str> {
    if 63 < name.len() {
        return Err(TOO_LONG_63);
    }
    if is_lower_label(name) { Ok(()) } else { Err(LABEL) }
}

/// Checks that a name is a label of RFC 1035: as RFC 1123, but the first character is a letter.
///
/// # Errors
///
/// Returns the required syntax if the name does not have it.
pub fn is_dns1035_label(name: &str) -> Result<(), &'static str> {
    if 63 < name.len() {
        return Err(TOO_LONG_63);
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts_well && is_lower_label(name) { Ok(()) } else { Err(LABEL_1035) }
}

/// Checks that a name is a subdomain of RFC 1123: `a.b-c.d`, at most 253 characters.
///
/// # Errors
///
/// Returns the required syntax if the name does not have it.
pub fn is_dns1123_subdomain(name: &str) -> Result<(), &'static str> {
    if 253 < name.len() {
        return Err(TOO_LONG_253);
    }
    if name.split('.').all(is_lower_label) { Ok(()) } else { Err(SUBDOMAIN) }
}

/// Checks that a name is qualified, as the keys of labels are: `name` or `sub.domain/name`.
///
/// # Errors
///
/// Returns the required syntax if the name does not have it.
pub fn is_qualified_name(name: &str) -> Result<(), &'static str> {
    let local = match name.split_once('/') {
        Some(("", _)) => return Err("prefix part must be non-empty"),
        Some((prefix, local)) => {
            is_dns1123_subdomain(prefix)?;
            local
        }
        None => name,
    };
    match local.len() {
        0 => Err("name part must be non-empty"),
        64.. => Err("name part must be no more than 63 characters"),
        _ if is_loose_label(local) => Ok(()),
        _ => Err(QUALIFIED),
    }
}

/// Checks that a text is a label value: empty or `My_value.1`, at most 63 characters.
///
/// # Errors
///
/// Returns the required syntax if the value does not have it.
pub fn is_label_value(value: &str) -> Result<(), &'static str> {
    if 63 < value.len() {
        return Err(TOO_LONG_63);
    }
    if value.is_empty() || is_loose_label(value) { Ok(()) } else { Err(LABEL_VALUE) }
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_lower_label(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    has_shape(name, alphanumeric, |byte| alphanumeric(byte) || byte == b'-')
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_loose_label(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    has_shape(name, |byte| byte.is_ascii_alphanumeric(), inside)
}

fn has_shape(name: &str, edge: impl Fn(u8) -> bool, inside: impl Fn(u8) -> bool) -> bool {
    let edges = name.bytes().next().zip(name.bytes().next_back());
    edges.is_some_and(|(first, last)| edge(first) && edge(last)) && name.bytes().all(inside)
}
