//! Steps of `cargo xtask test`: a line each with its time, and the output of those that fail.

use std::collections::BTreeSet;
use std::time::Duration;

use pharos_testbed::wait;

use crate::cargo::Outcome;

/// What has run so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    failed: Vec<String>,
    skipped: BTreeSet<String>,
}

impl Steps {
    /// Runs one step. Lines of its output that start with `SKIPPED:` are repeated, once each.
    pub(crate) fn run(
        &mut self,
        name: &str,
        step: impl FnOnce() -> anyhow::Result<Outcome>,
    ) -> bool {
        let start = wait::now();
        let outcome = step().unwrap_or_else(|error| Outcome {
            success: false,
            output: format!("{error:#}"),
        });
        self.finish(name, &outcome, start.elapsed());
        outcome.success
    }

    fn finish(&mut self, name: &str, outcome: &Outcome, took: Duration) {
        let verdict = if outcome.success { "ok    " } else { "FAILED" };
        println!("{verdict} {:7.1} s  {name}", took.as_secs_f64());
        for line in skipped_lines(&outcome.output) {
            if self.skipped.insert(line.to_owned()) {
                println!("                  {line}");
            }
        }
        if !outcome.success {
            println!("{}", outcome.output.trim_end());
            self.failed.push(name.to_owned());
        }
    }

    /// The last line: an error if any step failed.
    pub(crate) fn conclude(self) -> anyhow::Result<()> {
        if !self.skipped.is_empty() {
            println!(
                "{} kinds of tests were SKIPPED, see above",
                self.skipped.len()
            );
        }
        if self.failed.is_empty() {
            println!("all steps passed");
            return Ok(());
        }
        anyhow::bail!("failed: {}", self.failed.join(", "))
    }
}

fn skipped_lines(output: &str) -> impl Iterator<Item = &str> {
    output
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("SKIPPED:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_run_and_is_named() {
        let mut steps = Steps::default();
        let outcome = |success| {
            Ok(Outcome {
                success,
                output: String::new(),
            })
        };
        assert!(steps.run("good", || outcome(true)));
        assert!(!steps.run("bad", || outcome(false)));
        assert!(!steps.run("broken", || anyhow::bail!("no such program")));
        let error = steps.conclude().unwrap_err().to_string();
        assert_eq!(error, "failed: bad, broken");
    }

    #[test]
    fn a_skipped_test_is_found_in_the_output_of_a_passing_step() {
        let output = "running 1 test\nSKIPPED: needs root\ntest a ... ok\n";
        assert_eq!(
            skipped_lines(output).collect::<Vec<_>>(),
            ["SKIPPED: needs root"]
        );
    }
}
