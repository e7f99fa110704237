//! What control commands have changed in instances, as a reload reports it.
//!
//! The server process compares its instances with their lines before and after the changes of the
//! reload. A difference that is found both times is kept; one that is found only before is
//! overwritten.
//!
//! Invariant: a process that does not answer delays a reload by a limited time.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{conf::InstanceName, generation::Generation, member::ManagedInstance};
use crate::{process::protocol::Request, selection::Differences};

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The differences of instances.
type Found = HashMap<InstanceName, Differences>;

/// The differences before and after a reload.
#[derive(Default)]
pub(super) struct ReloadDifferences {
    asked: Option<Asked>,
    before: Found,
    /// None until the changes are complete.
    after: Option<Found>,
}

/// An open question to a process.
struct Asked {
    pid: u32,
    at: Instant,
    /// The instances by their numbers at the time of the question.
    names: HashMap<u64, InstanceName>,
}

impl ReloadDifferences {
    /// Asks a process.
    pub(super) fn ask(&mut self, process: Option<&Generation>, instances: &[ManagedInstance]) {
        self.asked = process.map(|process| {
            process.send(Request::Differences, Vec::new());
            let names = instances.iter().map(|it| (it.id, it.name().clone())).collect();
            Asked { pid: process.pid, at: Instant::now(), names }
        });
    }

    /// Notes the answer of a process.
    pub(super) fn found(&mut self, pid: u32, instances: Vec<(u64, Differences)>) {
        let Some(asked) = self.asked.take_if(|asked| asked.pid == pid) else { return };
        let found = instances.into_iter().filter_map(|(id, differences)| {
            asked.names.get(&id).map(|name| (name.clone(), differences))
        });
        let found = found.collect();
        match &mut self.after {
            Some(after) => *after = found,
            None => self.before = found,
        }
    }

    /// Asks again after the changes of the reload. Returns whether all answers are known, or not to
    /// be expected. `pids` are the running processes.
    pub(super) fn advance(
        &mut self,
        process: Option<&Generation>,
        pids: &[u32],
        instances: &[ManagedInstance],
    ) -> bool {
        let is_open = |asked: &Asked| pids.contains(&asked.pid) && asked.at.elapsed() < TIMEOUT;
        if self.asked.as_ref().is_some_and(is_open) {
            return false;
        }
        // A late answer to the first question is not taken for one to the second.
        if self.after.is_some() || self.asked.is_some() {
            return true;
        }
        self.after = Some(Found::new());
        self.ask(process, instances);
        self.asked.is_none()
    }

    /// A line for each instance whose differences the reload has kept, and for each one whose
    /// differences it has overwritten.
    pub(super) fn lines(&self, instances: &[ManagedInstance]) -> Vec<String> {
        let names = instances.iter().map(|instance| (instance.name(), instance.label()));
        lines(names, &self.before, self.after.as_ref())
    }
}

fn lines<'a>(
    instances: impl Iterator<Item = (&'a InstanceName, String)>,
    before: &Found,
    after: Option<&Found>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, label) in instances {
        let kept = after.and_then(|after| after.get(name));
        if let Some(kept) = kept {
            lines.push(format!("{label}: differs from the file: {}", kept.lines().join("; ")));
        }
        let still: HashSet<&String> = kept.iter().flat_map(|kept| &kept.first).collect();
        let overwritten = before.get(name).into_iter().flat_map(|before| &before.first);
        let overwritten: Vec<_> =
            overwritten.filter(|text| !still.contains(text)).map(String::as_str).collect();
        if !overwritten.is_empty() {
            let overwritten = overwritten.join("; ");
            lines.push(format!("{label}: overwritten by the file: {overwritten}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[&str]) -> Found {
        let first: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
        let name = InstanceName { port: 25, bind: None };
        let count = first.len();
        if count == 0 { Found::new() } else { [(name, Differences { first, count })].into() }
    }

    #[test]
    fn kept_and_overwritten_differences_have_a_line_each() {
        let name = InstanceName { port: 25, bind: None };
        let told = |before: &[&str], after: &[&str]| {
            lines([(&name, "smtp".to_owned())].into_iter(), &found(before), Some(&found(after)))
        };
        assert_eq!(told(&[], &[]), [""; 0]);
        assert_eq!(told(&["a", "b"], &["a", "b"]), ["smtp: differs from the file: a; b"]);
        assert_eq!(told(&["a"], &[]), ["smtp: overwritten by the file: a"]);
        assert_eq!(
            told(&["a", "b"], &["b"]),
            ["smtp: differs from the file: b", "smtp: overwritten by the file: a"]
        );
    }
}
