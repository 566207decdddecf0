//! The how-to pages, as their readers follow them.

/// Every `grpcurl` call of a page: its data and its method.
///
/// # Panics
/// If a call names no method.
pub fn calls_of(page: &str) -> Vec<(Option<String>, String)> {
    let joined = page.replace("\\\n", " ");
    let calls = joined.lines().filter(|line| line.starts_with("grpcurl "));
    let read = calls.map(|line| {
        let data = line.split('\'').nth(1).map(str::to_owned);
        let method = line
            .split_whitespace()
            .find(|word| word.starts_with("pharos.v1."));
        (data, method.expect(line).to_owned())
    });
    read.collect()
}
