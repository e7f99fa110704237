//! Test results of a virtual machine, from its console output.
//!
//! Invariant: a skipped test does not count as passed.

use std::{collections::BTreeSet, fmt};

/// The prefix of the init process's line about the datapath that balance chooses.
const AUTO_PREFIX: &str = "guest: auto takes ";

/// Numbers of tests by result.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// The datapath that `auto` chooses, with the reason.
    chosen: Option<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Skipped tests of the running executable.
    skipping: BTreeSet<String>,
}

impl Tally {
    /// Processes a line of the console.
    pub(super) fn count(&mut self, line: &str) {
        if let Some(chosen) = line.strip_prefix(AUTO_PREFIX) {
            self.chosen = Some(chosen.to_owned());
        // The test harness may have printed the start of the line.
        } else if let Some((_, skipped)) = line.split_once("skipped: ") {
            let name = skipped.split_once(": ").map_or(skipped, |(name, _)| name);
            self.skipping.insert(name.to_owned());
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let number = |what| {
                let mut parts = result.split([';', '.']).map(str::trim);
                let part = parts.find_map(|part| part.strip_suffix(what));
                part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
            };
            let passed: usize = number("passed");
            self.passed += passed.saturating_sub(self.skipping.len());
            self.failed += number("failed");
            self.skipped += self.skipping.len();
            self.skipping.clear();
        }
    }

    /// Returns the datapath that `auto` chooses.
    pub(super) fn chosen_datapath(&self) -> Option<&str> {
        self.chosen.as_deref()?.split(':').next()
    }

    /// Returns true if a test has passed.
    pub(super) fn has_passed(&self) -> bool {
        self.passed > 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped, .. } = self;
        write!(f, "{passed} tests passed, {failed} failed, {skipped} skipped")?;
        match &self.chosen {
            Some(chosen) => write!(f, "; auto takes {chosen}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(console: &str) -> Tally {
        let mut tally = Tally::default();
        console.lines().for_each(|line| tally.count(line));
        tally
    }

    #[test]
    fn passed_and_failed_tests_are_summed_up() {
        let tally = of("\
guest: auto takes relay: no splice
test a ... ok
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 24 filtered out; finished in 49.80s
guest: integrity passed in 49 s
test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.13s
");
        assert!(tally.has_passed());
        assert_eq!(tally.chosen_datapath(), Some("relay"));
        assert_eq!(
            tally.to_string(),
            "5 tests passed, 1 failed, 0 skipped; auto takes relay: no splice"
        );
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        let tally = of("\
skipped: a::b: Linux 5.10
test c ... skipped: c: no IPv6 here
skipped: c: for the second time
ok
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s
");
        assert!(!tally.has_passed());
        assert_eq!(tally.to_string(), "0 tests passed, 0 failed, 2 skipped");
    }
}
