//! What this machine cannot run is said loudly; with `CI=true` it is a failure, never a silent skip.

use std::path::PathBuf;

/// Whether a missing peer is a failure.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Says that a test does not run, and why.
///
/// # Panics
/// With `CI=true`.
pub fn skip(reason: &str) {
    assert!(!is_ci(), "cannot be skipped with CI=true: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// `true` when namespaces and raw sockets can be used (root, `ip`); otherwise skips.
pub fn can_use_namespaces() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root for network namespaces");
        return false;
    }
    has_programs(&["ip"])
}

/// `true` when every program is on the `PATH` (or in /usr/sbin, /sbin); otherwise skips.
pub fn has_programs(names: &[&str]) -> bool {
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| find_program(name).is_none())
        .collect();
    if missing.is_empty() {
        return true;
    }
    skip(&format!("needs {}", missing.join(", ")));
    false
}

/// Where a program lies; looks in the system folders too, which are not on every user's `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/frr", "/usr/lib/podman"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The Go compiler, if there is one.
pub fn find_go() -> Option<PathBuf> {
    find_program("go").or_else(|| {
        let usual = PathBuf::from("/usr/local/go/bin/go");
        usual.is_file().then_some(usual)
    })
}
