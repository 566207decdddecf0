//! Versions of the form `v1.36.3`, and which of them will do.

/// Major and minor part of a version; `None` if it has none.
pub(super) fn parse(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    // What a provider adds: `36+`, `36-gke`.
    let number = |part: &str| {
        let digits = part.split(|letter: char| !letter.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok())
    };
    Some((number(parts.next()?)?, number(parts.next()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_whatever_follows_it() {
        for (text, version) in [
            ("v1.36.3", Some((1, 36))),
            ("v0.15.2", Some((0, 15))),
            ("0.14", Some((0, 14))),
            ("v1.27+", Some((1, 27))),
            ("v1.30.1-gke.100", Some((1, 30))),
            ("main", None),
            ("v1", None),
            ("", None),
        ] {
            assert_eq!(parse(text), version, "{text}");
        }
    }
}
