//! Objects as YAML that people can read and `kubectl apply -f` takes. Every text is quoted, as in JSON, so
//! that none can be taken for something else.

use std::fmt::Write as _;

use serde_json::Value;

/// Words that YAML takes for something else than a text.
const WORDS: [&str; 10] = [
    "null", "true", "false", "yes", "no", "on", "off", "y", "n", "~",
];

/// One document, without the line that separates it from others.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// A value on lines of its own, each indented by so much.
fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                push(out, indent, &format!("{}:", key(name)));
                behind(value, indent + 2, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                let mut item = String::new();
                block(value, indent + 2, &mut item);
                // The dash takes the place of the first line's indent.
                push(out, indent, "- ");
                out.push_str(item.get(indent + 2..).unwrap_or_default());
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            push(out, indent, &scalar(value));
            out.push('\n');
        }
    }
}

/// A value behind its name: on the same line where it fits there.
fn behind(value: &Value, indent: usize, out: &mut String) {
    let is_empty = match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    if is_empty {
        out.push(' ');
        out.push_str(&scalar(value));
        out.push('\n');
    } else {
        out.push('\n');
        block(value, indent, out);
    }
}

fn push(out: &mut String, indent: usize, text: &str) {
    out.extend(std::iter::repeat_n(' ', indent));
    out.push_str(text);
}

fn key(name: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./".contains(letter);
    let begins_well = name.starts_with(|letter: char| letter.is_ascii_alphabetic());
    let is_word = WORDS.contains(&name.to_ascii_lowercase().as_str());
    if begins_well && name.chars().all(plain) && !is_word {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// Also an empty list or map, which have no block form.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

/// JSON's form, but for characters that JSON leaves as they are and YAML does not take.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for letter in Value::from(text).to_string().chars() {
        match letter {
            '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                // A String takes whatever is written to it.
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn back(text: &str) -> Value {
        serde_saphyr::from_str(text).expect("it is YAML")
    }

    #[test]
    fn a_document_reads_as_people_write_it() {
        let value = json!({
            "kind": "IPAddressPool",
            "spec": { "addresses": ["192.0.2.0/28", "yes"], "list": [{ "a": 1, "b": {} }], "none": [] },
        });
        let expected = "\
kind: \"IPAddressPool\"
spec:
  addresses:
    - \"192.0.2.0/28\"
    - \"yes\"
  list:
    - a: 1
      b: {}
  none: []
";
        assert_eq!(document(&value), expected);
        assert_eq!(back(&document(&value)), value);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "\\PC*".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let maps = prop::collection::btree_map("\\PC*|[a-z]{1,4}", inner.clone(), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(Value::from),
                maps.prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_as_the_same(value in values()) {
            let value = json!({ "root": value });
            prop_assert_eq!(back(&document(&value)), value);
        }
    }
}
