//! What the tests in a machine have come to, from what its console shows.
//!
//! Invariant: a test that was skipped has not passed.

use std::{collections::BTreeSet, fmt};

/// Before the datapath that balance has taken, in a line of the machine's first process.
const TAKES: &str = "guest: auto takes ";

/// Tests by how they have ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// The datapath that balance takes by itself, and why.
    takes: Option<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Those of the executable that runs now.
    skipping: BTreeSet<String>,
}

impl Tally {
    /// Takes a line of the console into account.
    pub(super) fn count(&mut self, line: &str) {
        if let Some(takes) = line.strip_prefix(TAKES) {
            self.takes = Some(takes.to_owned());
        // Behind what the test harness has begun to say, perhaps.
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

    /// The datapath that balance takes by itself.
    pub(super) fn taken(&self) -> Option<&str> {
        self.takes.as_deref()?.split(':').next()
    }

    /// Whether any test has passed.
    pub(super) fn has_passed(&self) -> bool {
        self.passed > 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped, .. } = self;
        write!(f, "{passed} tests passed, {failed} failed, {skipped} skipped")?;
        match &self.takes {
            Some(takes) => write!(f, "; auto takes {takes}"),
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
    fn what_has_passed_and_failed_is_summed_up() {
        let tally = of("\
guest: auto takes relay: no splice
test a ... ok
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 24 filtered out; finished in 49.80s
guest: integrity passed in 49 s
test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.13s
");
        assert!(tally.has_passed());
        assert_eq!(tally.taken(), Some("relay"));
        assert_eq!(
            tally.to_string(),
            "5 tests passed, 1 failed, 0 skipped; auto takes relay: no splice"
        );
    }

    #[test]
    fn what_was_skipped_has_not_passed() {
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
