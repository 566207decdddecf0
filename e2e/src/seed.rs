//! Seeds of tests that choose at random: printed, and given back by `PHAROS_SEED` for a replay.

/// The seed of `PHAROS_SEED`, else a new one. Printed either way, so that the output of a failed
/// test names it.
///
/// # Panics
/// If the variable holds no number.
pub fn seed() -> u64 {
    let seed = number("PHAROS_SEED").unwrap_or_else(rand::random);
    eprintln!("seed {seed} (replay with PHAROS_SEED={seed})");
    seed
}

/// A number from the environment: how long a test goes on, for runs that are longer than usual.
///
/// # Panics
/// If the variable holds no number.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={text:?} is no number")))
}
