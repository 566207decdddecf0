//! Keys and values of labels, by the rules by which Kubernetes reads a selector.

const MAX_NAME_BYTES: usize = 63;
const MAX_PREFIX_BYTES: usize = 253;
const MAX_VALUE_BYTES: usize = 63;

/// What is wrong with a key: a name, or a DNS subdomain, `/` and a name.
pub fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if name.contains('/') {
        let message = "a qualified name is a name, or a DNS subdomain, '/' and a name";
        return Err(message.to_owned());
    }
    if let Some(prefix) = prefix {
        check_prefix(prefix).map_err(|wrong| format!("prefix part {wrong}"))?;
    }
    check_name(name).map_err(|wrong| format!("name part {wrong}"))
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    check_length(prefix, MAX_PREFIX_BYTES)?;
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let inner = label.bytes().all(|byte| lower(byte) || byte == b'-');
        inner && has_ends(label, lower)
    };
    if prefix.split('.').all(is_label) {
        return Ok(());
    }
    let message = "must be a DNS subdomain: lower case alphanumeric characters, '-' or '.', \
                   starting and ending with an alphanumeric character";
    Err(message.to_owned())
}

fn check_name(name: &str) -> Result<(), String> {
    check_length(name, MAX_NAME_BYTES)?;
    if is_name(name) {
        return Ok(());
    }
    let message = "must consist of alphanumeric characters, '-', '_' or '.', and must start and \
                   end with an alphanumeric character";
    Err(message.to_owned())
}

fn check_length(part: &str, most: usize) -> Result<(), String> {
    match part.len() {
        0 => Err("must be non-empty".to_owned()),
        bytes if bytes > most => Err(format!("must be no more than {most} bytes")),
        _ => Ok(()),
    }
}

/// What is wrong with a value, which may be empty.
pub fn check_value(value: &str) -> Result<(), String> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(format!("must be no more than {MAX_VALUE_BYTES} bytes"));
    }
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    let message = "a label value is empty, or consists of alphanumeric characters, '-', '_' or \
                   '.', and must start and end with an alphanumeric character";
    Err(message.to_owned())
}

fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().all(good) && has_ends(text, |byte| byte.is_ascii_alphanumeric())
}

fn has_ends(text: &str, good: impl Fn(u8) -> bool) -> bool {
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.into_iter().all(|end| end.is_some_and(&good))
}
