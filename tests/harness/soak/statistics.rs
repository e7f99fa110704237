//! Counts of what happened in a run.
//!
//! Invariant: only what took place is counted; a planned break that did not happen is not.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{Act, Ending, Plan, Reception, StreamEnd, lane::ScenarioResult};

/// What happened in a run.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Finished scenarios.
    pub scenarios: u64,
    /// Bytes received by clients and backends.
    pub bytes: u64,
    /// Duration of the run.
    pub time: Duration,
    /// Duration and number of the longest scenario.
    pub longest: (Duration, u64),
    /// In how many scenarios each kind of event happened.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Number of connections by datapath at their end.
    pub sessions: BTreeMap<String, u64>,
}

impl Statistics {
    /// Counts a scenario.
    pub(super) fn add(&mut self, plan: &Plan, result: &ScenarioResult) {
        let ScenarioResult { client, backends, time, .. } = result;
        let backend = backends.last();
        self.scenarios += 1;
        self.longest = self.longest.max((*time, plan.number));
        self.bytes += client.received + backend.map_or(0, |backend| backend.received);
        let sides = [(&plan.client, Some(client)), (&plan.backend, backend)];
        for (side, (script, record)) in sides.into_iter().enumerate() {
            let Some(record) = record else { continue };
            match record.left {
                Some(Ending::Reset) => self.count(["client resets", "backend resets"][side]),
                Some(Ending::Close) => self.count(["client vanishes", "backend dies"][side]),
                None => {}
            }
            if record.end == Some(StreamEnd::Reset) {
                self.count("a side gets a reset");
            }
            if script.stalls() {
                self.count("a side stops reading for good");
            } else if !script.read_pauses.is_empty() {
                self.count("a side stops reading for a while");
            }
            if script.acts.contains(&Act::Urgent) {
                self.count("urgent bytes");
            }
            let ended = script.acts.iter().position(|act| *act == Act::AwaitEnd);
            if ended
                .is_some_and(|at| script.acts[at..].iter().any(|a| matches!(a, Act::Send { .. })))
            {
                self.count("a side sends after the other's end");
            }
        }
        let all_clean = sides.iter().all(|(_, record)| {
            record.is_some_and(|record| record.finished && record.end == Some(StreamEnd::Clean))
        });
        if all_clean {
            self.count("both ends clean");
        }
        if backends.len() > 1 {
            self.count("backend resets at once, the next group serves");
        }
        match plan.reception {
            Reception::Served => {}
            Reception::Failover => self.count("first backend down, the next group serves"),
            Reception::AllDown => self.count("all backends down"),
            Reception::DiesBeforeAccept => self.count("backend dies before it accepts"),
        }
    }

    fn count(&mut self, kind: &'static str) {
        *self.kinds.entry(kind).or_default() += 1;
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenarios, bytes, time, longest: (longest, number), kinds, sessions } = self;
        write!(
            f,
            "{scenarios} scenarios in {:.0} s, {} MB received, ",
            time.as_secs_f64(),
            bytes / 1_000_000
        )?;
        write!(f, "the longest {:.1} s (scenario {number})", longest.as_secs_f64())?;
        for (kind, count) in kinds {
            write!(f, "\n  {count:>7}  {kind}")?;
        }
        for (name, count) in sessions {
            write!(f, "\n  {count:>7}  on {name} at their end")?;
        }
        Ok(())
    }
}
