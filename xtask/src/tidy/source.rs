//! Just enough of Rust's and SQL's lexical rules to tell code from comments and quoted text.

/// The text with comments and the insides of literals blanked out; lines stay where they are.
pub(super) fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = comment(rest)
            .or_else(|| raw_string(rest))
            .or_else(|| quoted(rest));
        let length = skipped.unwrap_or(first.len_utf8());
        let (token, after) = rest.split_at(length);
        match skipped {
            // A blank keeps what stood on both sides apart.
            Some(_) => {
                code.push(' ');
                code.extend(token.chars().filter(|letter| *letter == '\n'));
            }
            None => code.push(first),
        }
        rest = after;
    }
    code
}

/// The same for SQL: `-- comment`, `/* comment */`, 'text' and "name".
pub(super) fn sql_code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("--") {
            Some(rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            Some(rest.find("*/").map_or(rest.len(), |end| end + 2))
        } else if first == '\'' || first == '"' {
            Some(rest[1..].find(first).map_or(rest.len(), |end| end + 2))
        } else {
            None
        };
        let (token, after) = rest.split_at(skipped.unwrap_or(first.len_utf8()));
        match skipped {
            Some(_) => code.extend(token.chars().filter(|letter| *letter == '\n')),
            None => code.push(first),
        }
        rest = after;
    }
    code
}

/// Whether a line of code names a path or word, and not merely a longer one that contains it.
pub(super) fn names(line: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(name).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + name.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// Length of the comment that the text begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    // Block comments nest in Rust.
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(text.len())
}

/// Length of the raw string (`r"..."`, `r#"..."#`) that the text begins with.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let opening = 1 + hashes + 1;
    Some(
        body.find(&end)
            .map_or(text.len(), |at| opening + at + end.len()),
    )
}

/// Length of the string or character literal that the text begins with; a lifetime is none.
fn quoted(text: &str) -> Option<usize> {
    let quote = text
        .chars()
        .next()
        .filter(|first| *first == '"' || *first == '\'')?;
    if quote == '\'' {
        let mut letters = text.chars().skip(1);
        let (first, second) = (letters.next()?, letters.next());
        if first != '\\' && second != Some('\'') {
            return None;
        }
    }
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == quote {
            return Some(at + 1);
        }
    }
    Some(text.len())
}
