//! Pages that say which test holds which rule: each name must be that of a test.
//!
//! A row of a table in such a page ends with its proof: tests as `` `path::name` ``, or a link to the
//! decision why there is none.

use std::path::Path;

use super::{Finding, source};

/// Pages whose tables name tests.
pub(super) const PAGES: [&str; 4] = [
    "docs/allocation-rules.md",
    "docs/kubernetes-rules.md",
    "docs/layer2-rules.md",
    "docs/service-rules.md",
];

/// Looks at every row of the page. `read` is the text of a file of this tree, if there is one.
pub(super) fn check(
    path: &Path,
    page: &str,
    read: impl Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in page.lines().enumerate() {
        let Some(proof) = proof(line) else {
            continue;
        };
        let mut say = |message: String| findings.push(Finding::error(path, index + 1, message));
        let names: Vec<&str> = quoted(proof).collect();
        if names.is_empty() && !proof.contains("](decisions/") {
            say("a rule without a test and without a decision".to_owned());
        }
        for name in names {
            if let Err(message) = check_test(name, &read) {
                say(message);
            }
        }
    }
    findings
}

/// The last cell of a row; a table's head and the line below it are no rows.
fn proof(line: &str) -> Option<&str> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let (_, last) = row.rsplit_once('|')?;
    let last = last.trim();
    let is_line = last.starts_with('-') && last.chars().all(|letter| letter == '-');
    (last != "test" && !is_line).then_some(last)
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn check_test(name: &str, read: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let Some((file, test)) = name.split_once("::") else {
        return Err(format!("`{name}` is not `path::name`"));
    };
    let Some(text) = read(file) else {
        return Err(format!("there is no file `{file}`"));
    };
    if tests(&source::code_only(&text)).any(|known| known == test) {
        Ok(())
    } else {
        Err(format!("`{file}` has no test `{test}`"))
    }
}

/// Names of the test functions in a file without comments and texts.
fn tests(code: &str) -> impl Iterator<Item = &str> {
    let mut is_marked = false;
    code.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(attribute) = line.strip_prefix("#[") {
            is_marked |= attribute.starts_with("test]") || attribute.starts_with("tokio::test");
            return None;
        }
        let (_, rest) = line.split_once("fn ")?;
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let name = &rest[..end.unwrap_or(rest.len())];
        std::mem::take(&mut is_marked).then_some(name)
    })
}
