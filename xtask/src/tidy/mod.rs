//! `cargo xtask tidy`: the rules of this tree that no compiler knows.
//!
//! - Pure modules ([`PURE`], [`ALLOWED`]) name no runtime, network, database, clock or chance, and have no `async`.
//! - The three binary crates never depend on one another, and nothing links them.
//! - A Rust file has at most 800 lines; above 500 it must explain itself to its reviewer.
//! - SQL is lower case.
//! - Cargo.lock is free of a second TLS stack ([`BANNED`]).
//! - No file contains a word that has no place in it ([`WORDS`]).
//! - Every test that a page of rules names is there ([`pages`]).

mod pages;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::cargo::{capture, cargo, root};

/// Modules that decide and never act: a file, and what lies in the folder of its name.
const PURE: [&str; 63] = [
    "announcer/src/bind/bound",
    "announcer/src/election",
    "announcer/src/engine/macs",
    "announcer/src/fenced",
    "announcer/src/handover",
    "announcer/src/l2/arp",
    "announcer/src/l2/burst",
    "announcer/src/l2/check",
    "announcer/src/l2/probe",
    "announcer/src/l2/conflict",
    "announcer/src/l2/groups",
    "announcer/src/l2/fences",
    "announcer/src/l2/filter",
    "announcer/src/l2/hold",
    "announcer/src/l2/limit",
    "announcer/src/l2/narrow",
    "announcer/src/l2/ndp",
    "announcer/src/l2/question",
    "announcer/src/l2/reply",
    "announcer/src/l2/table",
    "announcer/src/l2/recent",
    "announcer/src/l2/waiting",
    "announcer/src/links/link_local",
    "announcer/src/links/rules",
    "announcer/src/links/table",
    "announcer/src/members/peers",
    "announcer/src/members/reports",
    "announcer/src/ownership",
    "announcer/src/plan",
    "announcer/src/progress",
    "announcer/src/talk",
    "announcer/src/untried",
    "checker/src",
    "ipam-service/src/retention/rule",
    "ipam-service/src/state",
    "k8s-adapter/src/book",
    "k8s-adapter/src/claim",
    "k8s-adapter/src/crd",
    "k8s-adapter/src/eligibility",
    "k8s-adapter/src/facts/spacing",
    "k8s-adapter/src/index",
    "k8s-adapter/src/lease/machine",
    "k8s-adapter/src/migrate/judge",
    "k8s-adapter/src/notice",
    "k8s-adapter/src/plan",
    "k8s-adapter/src/policy",
    "k8s-adapter/src/service",
    "k8s-adapter/src/webhook/bundle",
    "k8s-adapter/src/webhook/convert",
    "k8s-adapter/src/status/condition",
    "k8s-adapter/src/status/desired",
    "k8s-adapter/src/status/diff",
    "k8s-adapter/src/status/lasting",
    "k8s-adapter/src/status/object",
    "k8s-adapter/src/status/pace",
    "k8s-adapter/src/status/picture",
    "k8s-adapter/src/status/silence",
    "k8s-adapter/src/status/why",
    "k8s-adapter/src/webhook/review",
    "k8s-adapter/src/world",
    "lease/src/granter",
    "lease/src/holder",
    "lease/src/owner",
];

/// What a pure module may name all the same, and why.
const ALLOWED: [(&str, &str); 3] = [
    // It translates: claims and policies of the API are what it makes.
    ("k8s-adapter/src/", "pharos_proto::v1"),
    // It judges messages of the API.
    ("checker/src/", "pharos_proto::v1"),
    // The derive that makes a kind.
    ("k8s-adapter/src/crd", "kube"),
];

/// What a pure module may not name, and why.
const IMPURE: [(&str, &str); 15] = [
    ("async", "decisions do not wait"),
    ("await", "decisions do not wait"),
    ("tokio", "no runtime"),
    ("tonic", "wire types stop at the edge"),
    ("prost", "wire types stop at the edge"),
    ("pharos_proto::v1", "wire types stop at the edge"),
    ("sqlx", "only store speaks SQL"),
    ("kube", "only the adapter's drivers speak to Kubernetes"),
    ("socket2", "no sockets"),
    ("TcpStream", "no sockets"),
    ("UdpSocket", "no sockets"),
    ("rand", "chance comes in as an argument"),
    ("Instant::now", "time comes in as an argument"),
    ("SystemTime", "time comes in as an argument"),
    ("std::fs", "no files"),
];

/// Crates that are programs.
const BINARIES: [&str; 3] = ["announcer", "ipam-service", "k8s-adapter"];

/// Crates that may not enter Cargo.lock, in any depth. (deny.toml says the same to cargo-deny, which
/// not every machine has.)
const BANNED: [(&str, &str); 5] = [
    ("aws-lc-rs", "one TLS stack: rustls with ring"),
    ("aws-lc-sys", "one TLS stack: rustls with ring"),
    ("native-tls", "one TLS stack: rustls with ring"),
    ("openssl", "one TLS stack: rustls with ring"),
    ("openssl-sys", "one TLS stack: rustls with ring"),
];

/// Words that no file may contain, and why. Case matters.
const WORDS: [(&str, &str); 4] = [
    (concat!("TO", "DO"), "do it, or write an issue"),
    (concat!("FIX", "ME"), "fix it, or write an issue"),
    (concat!("to", "do!("), "write it"),
    (concat!("unimple", "mented!("), "write it"),
];

const MOST_LINES: usize = 800;
const MANY_LINES: usize = 500;

/// A rule that a file breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    path: PathBuf,
    line: usize,
    severity: Severity,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Warning,
    Error,
}

impl Finding {
    pub(crate) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    fn error(path: &Path, line: usize, message: String) -> Self {
        Self {
            path: path.to_owned(),
            line,
            severity: Severity::Error,
            message,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let path = self.path.display();
        write!(
            formatter,
            "{path}:{}: {severity}: {}",
            self.line, self.message
        )
    }
}

pub(crate) fn run(forbid: &[String]) -> anyhow::Result<()> {
    let findings = check(&root(), forbid)?;
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    if errors > 0 {
        bail!("{errors} errors");
    }
    println!("tidy");
    Ok(())
}

/// Looks at every file that git knows or would take in.
pub(crate) fn check(root: &Path, forbid: &[String]) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let paths = files(root)?;
    for path in &paths {
        // Not text, or deleted a moment ago.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else {
            continue;
        };
        findings.extend(check_file(path, &text, forbid));
    }
    findings.extend(check_pages(root));
    for pure in PURE {
        if !paths.iter().any(|path| is_within(path, pure)) {
            let message = "is on the list of pure modules, but there is no such module".to_owned();
            findings.push(Finding::error(Path::new(pure), 0, message));
        }
    }
    findings.extend(check_dependencies(&dependencies()?));
    Ok(findings)
}

/// A page of rules that is not there breaks the rule too.
fn check_pages(root: &Path) -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let pages = pages::PAGES.iter().flat_map(|page| {
        let path = Path::new(page);
        match read(page) {
            Some(text) => pages::check(path, &text, read),
            None => vec![Finding::error(path, 0, "there is no such page".to_owned())],
        }
    });
    pages.collect()
}

fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root);
    let outcome = capture(git)?;
    if !outcome.success {
        bail!("git ls-files: {}", outcome.output.trim());
    }
    Ok(outcome.output.lines().map(PathBuf::from).collect())
}

/// Whether a file is the module, or a module inside it.
fn is_within(path: &Path, module: &str) -> bool {
    path.starts_with(module) || path == Path::new(&format!("{module}.rs"))
}

fn is_allowed(path: &Path, name: &str, in_test: bool) -> bool {
    // Nothing but the clock makes an `Instant`, and a test of timing must begin at some; a test of
    // random sequences brings its own seed.
    let for_tests = in_test && ["Instant::now", "rand"].contains(&name);
    for_tests
        || ALLOWED
            .iter()
            .any(|(within, allowed)| path.to_string_lossy().starts_with(within) && *allowed == name)
}

fn check_file(path: &Path, text: &str, forbid: &[String]) -> Vec<Finding> {
    let mut findings = check_words(path, text, forbid);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("lock") => findings.extend(check_lock(path, text)),
        Some("rs") => {
            findings.extend(check_length(path, text));
            if PURE.iter().any(|pure| is_within(path, pure)) {
                findings.extend(check_purity(path, text));
            }
        }
        Some("sql") => findings.extend(check_sql(path, text)),
        Some(_) | None => {}
    }
    findings
}

fn check_words(path: &Path, text: &str, forbid: &[String]) -> Vec<Finding> {
    let extra = forbid
        .iter()
        .map(|word| (word.as_str(), "forbidden on the command line"));
    let words: Vec<(&str, &str)> = WORDS.iter().copied().chain(extra).collect();
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (word, reason) in &words {
            if line.contains(word) {
                findings.push(Finding::error(
                    path,
                    index + 1,
                    format!("`{word}`: {reason}"),
                ));
            }
        }
    }
    findings
}

fn check_length(path: &Path, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    if lines <= MANY_LINES {
        return None;
    }
    let (severity, advice) = if lines <= MOST_LINES {
        (Severity::Warning, "does it do one thing?")
    } else {
        (Severity::Error, "split it by meaning")
    };
    Some(Finding {
        path: path.to_owned(),
        line: lines,
        severity,
        message: format!("{lines} lines: {advice}"),
    })
}

fn check_purity(path: &Path, text: &str) -> Vec<Finding> {
    let code = source::code_only(text);
    let mut findings = Vec::new();
    // Tests are the last thing in a file, or a file of their own.
    let mut in_test = path.components().any(|part| {
        let part = part.as_os_str();
        part == "tests.rs" || part == "tests"
    });
    for (index, line) in code.lines().enumerate() {
        in_test |= line.trim() == "#[cfg(test)]";
        for (name, reason) in IMPURE {
            if source::names(line, name) && !is_allowed(path, name, in_test) {
                let message = format!("a pure module names `{name}`: {reason}");
                findings.push(Finding::error(path, index + 1, message));
            }
        }
    }
    findings
}

fn check_lock(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (name, reason) in BANNED {
            if line == format!("name = \"{name}\"") {
                findings.push(Finding::error(
                    path,
                    index + 1,
                    format!("`{name}`: {reason}"),
                ));
            }
        }
    }
    findings
}

/// Keywords and names are lower case; quoted text and comments are free.
fn check_sql(path: &Path, text: &str) -> Vec<Finding> {
    let code = source::sql_code_only(text);
    code.lines()
        .enumerate()
        .filter(|(_, line)| line.chars().any(|letter| letter.is_ascii_uppercase()))
        .map(|(index, line)| {
            let message = format!("SQL is lower case: {}", line.trim());
            Finding::error(path, index + 1, message)
        })
        .collect()
}

/// A package of the workspace and what it depends on, in any way.
#[derive(Debug)]
struct Package {
    name: String,
    dependencies: Vec<String>,
}

fn dependencies() -> anyhow::Result<Vec<Package>> {
    let metadata = ["metadata", "--no-deps", "--format-version", "1", "--quiet"];
    let outcome = capture(cargo(&metadata))?;
    if !outcome.success {
        bail!("cargo metadata: {}", outcome.output.trim());
    }
    let json: serde_json::Value =
        serde_json::from_str(&outcome.output).context("cargo metadata is no JSON")?;
    let name_of = |value: &serde_json::Value| value["name"].as_str().map(str::to_owned);
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    list(&json["packages"])
        .iter()
        .map(|package| {
            Ok(Package {
                name: name_of(package).context("a package without a name")?,
                dependencies: list(&package["dependencies"])
                    .iter()
                    .filter_map(name_of)
                    .collect(),
            })
        })
        .collect()
}

fn check_dependencies(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        for dependency in &package.dependencies {
            if BINARIES.contains(&dependency.as_str()) && *dependency != package.name {
                let message =
                    format!("depends on `{dependency}`: programs are started, never linked");
                let path = Path::new(&package.name).join("Cargo.toml");
                findings.push(Finding::error(&path, 0, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests;
