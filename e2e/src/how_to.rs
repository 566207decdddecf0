//! The how-to pages, as their readers follow them.

use serde_json::Value;

use crate::ipam::Ipam;

/// Every `grpcurl` call of a page: its data and its method.
///
/// # Panics
/// If a call names no method.
pub fn calls_of(page: &str) -> Vec<(Option<String>, String)> {
    let steps = steps_of(page).into_iter();
    steps.map(|step| (step.data, step.method)).collect()
}

/// A `grpcurl` call of a page, and what the page shows of the answer: the lines below that begin
/// with `#`. `...` stands for what is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub data: Option<String>,
    pub method: String,
    pub shown: String,
}

/// The steps of a page, in their order.
///
/// # Panics
/// If a call names no method.
pub fn steps_of(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut below_a_call = false;
    for line in page.replace("\\\n", " ").lines() {
        if line.starts_with("grpcurl ") {
            let mut words = line.split_whitespace();
            words.find(|word| word.starts_with("127.0.0.1:"));
            let data = line.split_once("-d '").map(|(_, rest)| rest.split('\''));
            steps.push(Step {
                data: data.and_then(|mut it| it.next()).map(str::to_owned),
                method: words.next().expect(line).to_owned(),
                shown: String::new(),
            });
        } else if let (true, Some(text), Some(step)) =
            (below_a_call, line.strip_prefix('#'), steps.last_mut())
        {
            step.shown
                .push_str(text.trim_start().trim_start_matches("-> "));
            step.shown.push(' ');
        }
        below_a_call = line.starts_with("grpcurl ") || below_a_call && line.starts_with('#');
    }
    steps
}

/// Follows a page against a fresh ipam-service, except what goes on until it is interrupted.
///
/// # Errors
/// The first answer that is not what the page shows.
pub fn follow(ipam: &Ipam, page: &str) -> Result<usize, String> {
    let mut steps = steps_of(page);
    steps.retain(|step| !step.method.contains("/Watch"));
    for step in &steps {
        let answer = ipam.grpcurl_text(step.data.as_deref(), &step.method);
        let (printed, wanted) = match (answer, refusal_of(&step.shown)) {
            (Ok(answer), None) => (texts_of(&answer), step.shown.clone()),
            (Err(error), Some((code, reason, message))) => {
                let printed = without_spaces(&format!("{error:#}"));
                let head = [format!("Code:{code}"), format!("\"reason\":\"{reason}\"")];
                if let Some(missing) = head.iter().find(|it| !printed.contains(*it)) {
                    return Err(format!("{missing} is not in {printed}, after {step:?}"));
                }
                (printed, message)
            }
            (answer, _) => return Err(format!("{step:?}: {answer:?}")),
        };
        for part in wanted.split("...").map(without_spaces) {
            let part = part.trim_matches(',');
            if !printed.contains(part) {
                return Err(format!("{part} is not in {printed}, after {step:?}"));
            }
        }
    }
    Ok(steps.len())
}

/// `Code, REASON: message`.
fn refusal_of(shown: &str) -> Option<(&str, &str, String)> {
    let (code, rest) = shown.split_once(", ")?;
    let (reason, message) = rest.split_once(": ")?;
    let is_code = code.chars().all(|it| it.is_ascii_alphabetic());
    let is_reason = reason
        .chars()
        .all(|it| it.is_ascii_uppercase() || it == '_');
    (is_code && is_reason).then(|| (code, reason, message.to_owned()))
}

/// An answer as pages show it: its JSON, and the sentences of its summary.
fn texts_of(answer: &str) -> String {
    let parsed: Value = serde_json::from_str(answer).unwrap_or_default();
    let summary = parsed["summary"].as_array().into_iter().flatten();
    let sentences: String = summary.filter_map(Value::as_str).collect();
    without_spaces(&format!("{answer}{sentences}"))
}

fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
}
