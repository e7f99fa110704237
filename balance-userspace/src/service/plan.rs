//! The changes that a new configuration file needs.
//!
//! Pure. Invariants:
//! - Every line of the new file has exactly one step, in the order of the file.
//! - An instance without a line is removed.
//! - An unchanged instance is not touched.

use super::conf::{InstanceName, Line};

/// The change that a line needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The instance has these arguments already.
    Keep,
    /// The instance is new.
    Start,
    /// The running instance can take the new arguments.
    Configure,
    /// The instance is served a second time with the new arguments, then the first is removed.
    Replace,
}

/// The changes for a new file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Instances without a line.
    pub(crate) remove: Vec<InstanceName>,
    /// The lines of the new file.
    pub(crate) steps: Vec<(Line, Step)>,
}

/// Compares the running lines with the lines of the new file.
pub(crate) fn plan<'a>(running: impl Iterator<Item = &'a Line>, wanted: Vec<Line>) -> Plan {
    let running: Vec<&Line> = running.collect();
    let is_wanted = |line: &&&Line| wanted.iter().any(|other| other.name == line.name);
    let remove = running.iter().filter(|line| !is_wanted(line)).map(|line| line.name.clone());
    let remove = remove.collect();
    let step = |line: &Line| match running.iter().find(|other| other.name == line.name) {
        None => Step::Start,
        Some(other) if other.words == line.words => Step::Keep,
        Some(other) if other.args.can_reload_to(&line.args) => Step::Configure,
        Some(_) => Step::Replace,
    };
    let steps = wanted.iter().map(step).collect::<Vec<_>>();
    Plan { remove, steps: wanted.into_iter().zip(steps).collect() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{
        super::conf::{self, NoFiles},
        *,
    };
    use proptest::prelude::*;

    fn lines(text: &str) -> Vec<Line> {
        conf::read(Path::new("x"), text, &|_| None, &NoFiles).lines
    }

    fn planned(old: &str, new: &str) -> (Vec<String>, Vec<(String, Step)>) {
        let plan = plan(lines(old).iter(), lines(new));
        let steps = plan.steps.iter().map(|(line, step)| (line.name.to_string(), *step));
        (plan.remove.iter().map(InstanceName::to_string).collect(), steps.collect())
    }

    #[test]
    fn each_line_gets_the_smallest_sufficient_step() {
        use Step::{Configure, Keep, Replace, Start};
        let old = "25 a b\n-b ::1 25 a\n26 a\n27 a\n28 a";
        let new =
            "29 a\n27 a -t 2\n25 a   b # the same\n26 a b ! c %\n-b ::1 25 a --offload-after 1";
        let (remove, steps) = planned(old, new);
        assert_eq!(remove, ["28"]);
        let expected = [
            ("29", Start),
            ("27", Configure),
            ("25", Keep),
            ("26", Configure),
            ("[::1]:25", Replace),
        ];
        assert_eq!(steps, expected.map(|(name, step)| (name.to_owned(), step)));
    }

    proptest! {
        #[test]
        fn every_line_has_a_step_and_the_same_file_changes_nothing(
            old in prop::collection::btree_map(1u16..9, 0u8..3, 0..8),
            new in prop::collection::btree_map(1u16..9, 0u8..3, 0..8),
        ) {
            let text = |ports: &std::collections::BTreeMap<u16, u8>| {
                ports.iter().fold(String::new(), |text, (port, how)| text + &format!("{port} a -t {}\n", how + 1))
            };
            let (remove, steps) = planned(&text(&old), &text(&new));
            prop_assert_eq!(steps.len(), new.len());
            prop_assert_eq!(remove.len(), old.keys().filter(|port| !new.contains_key(port)).count());
            let (remove, steps) = planned(&text(&old), &text(&old));
            prop_assert!(remove.is_empty() && steps.iter().all(|(_, step)| *step == Step::Keep));
        }
    }
}
