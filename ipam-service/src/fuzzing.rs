//! What the targets in `fuzz/` call with bytes of their own choice; each panics where a promise is
//! broken. The inputs in `fuzz/seeds/` run in the usual tests.

use pharos_proto::digest::Digests;

/// Requests, from the wire to the state.
pub fn wire(bytes: &[u8]) {
    crate::api::garbage::requests(bytes);
}

/// Commands against the naive model.
pub fn state(bytes: &[u8]) {
    crate::state::tests::random::by_choices(bytes);
}

/// Rows of a database.
pub fn rows(bytes: &[u8]) {
    crate::store::spoiled::rows(bytes);
}

/// Addresses, ranges, names and tokens.
pub fn text(bytes: &[u8]) {
    crate::api::garbage::text(&String::from_utf8_lossy(bytes));
    if let Some(digests) = Digests::from_wire(bytes) {
        assert_eq!(Digests::from_wire(&digests.to_wire()), Some(digests));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    type Target = fn(&[u8]);

    /// One file is one input: good ones to begin with, and those that once broke something.
    #[test]
    fn every_input_that_is_kept_passes() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        let targets: [(&str, Target); 4] = [
            ("wire", super::wire),
            ("state", super::state),
            ("rows", super::rows),
            ("text", super::text),
        ];
        for (target, run) in targets {
            let inputs = std::fs::read_dir(seeds.join(target)).expect(target);
            let mut count = 0;
            for input in inputs {
                run(&std::fs::read(input.expect("a file").path()).expect("readable"));
                count += 1;
            }
            assert!(count > 0, "no input for {target}");
        }
    }
}
