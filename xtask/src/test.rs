//! `cargo xtask test`: everything that must hold, in the order from cheap to dear.

use pharos_testbed::skip;

use crate::cargo::{Outcome, capture, cargo, root};
use crate::steps::Steps;
use crate::{peers, tidy};

/// End-to-end files that share nothing with one another but the machine's time: their figures and
/// their kube-apiservers suffer when two tests run at once.
const ALONE: [&str; 5] = ["all_", "bgp_", "kube_", "l2_", "perf_"];

/// Of these, files whose tests wait for times of the adapter more than they work: two of them at once.
const PAIRED: [&str; 6] = [
    "kube_faults",
    "kube_own",
    "kube_policy",
    "kube_restart",
    "kube_status",
    "kube_views",
];

pub(crate) fn run(quick: bool) -> anyhow::Result<()> {
    if skip::is_ci() {
        println!("CI=true: whatever is missing is a failure");
    }
    let mut steps = Steps::default();
    steps.run("rustfmt", || capture(cargo(&["fmt", "--all", "--check"])));
    steps.run("tidy", tidy_step);
    steps.run("clippy", || {
        let lint = [
            "clippy",
            "-q",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        capture(cargo(&lint))
    });
    // What the fuzz targets call; the targets themselves need a compiler of their own.
    steps.run("clippy of fuzzing", || {
        let only = ["-p", "ipam-service", "--lib", "--features", "fuzzing"];
        let lint = ["clippy", "-q"].into_iter().chain(only);
        capture(cargo(
            &lint.chain(["--", "-D", "warnings"]).collect::<Vec<_>>(),
        ))
    });
    let built = steps.run("build", || capture(cargo(&["build", "-q", "--workspace"])));
    if !built {
        return steps.conclude();
    }
    if !quick {
        peers::prepare(&mut steps);
    }
    steps.run("unit and property tests", || {
        // Shown even when a test passes: what it skipped.
        let tests = [
            "test",
            "-q",
            "--workspace",
            "--exclude",
            "e2e",
            "--lib",
            "--bins",
            "--tests",
        ];
        capture(cargo(
            &[&tests[..], &["--no-fail-fast", "--", "--show-output"]].concat(),
        ))
    });
    steps.run("documentation tests", || {
        capture(cargo(&["test", "-q", "--workspace", "--doc"]))
    });
    if quick {
        println!("                  end-to-end tests left out (--quick)");
        return steps.conclude();
    }
    for name in scenarios()? {
        steps.run(&format!("e2e {name}"), || scenario(&name));
    }
    steps.conclude()
}

fn tidy_step() -> anyhow::Result<Outcome> {
    let findings = tidy::check(&root(), &[])?;
    Ok(Outcome {
        success: !findings.iter().any(tidy::Finding::is_error),
        output: findings
            .iter()
            .map(|finding| format!("{finding}\n"))
            .collect(),
    })
}

fn scenario(name: &str) -> anyhow::Result<Outcome> {
    let mut arguments = vec![
        "test",
        "-q",
        "--package",
        "e2e",
        "--test",
        name,
        "--",
        "--show-output",
    ];
    if PAIRED.contains(&name) {
        arguments.push("--test-threads=2");
    } else if ALONE.iter().any(|prefix| name.starts_with(prefix)) {
        arguments.push("--test-threads=1");
    }
    capture(cargo(&arguments))
}

/// The files of e2e/tests, by name.
fn scenarios() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("e2e/tests"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(stem) = path.file_stem()
        {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
