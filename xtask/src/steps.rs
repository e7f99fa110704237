//! The steps of a task and the time of each step.
//!
//! Invariant: the table contains every step that has started, including a failed one.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};

/// The steps in their order.
#[derive(Default)]
pub(crate) struct Steps {
    times: Vec<(&'static str, StepTime)>,
}

/// The time of a step: wall-clock time, and CPU time of the processes that ended in the step.
struct StepTime {
    wall: Duration,
    processor: Duration,
}

impl Steps {
    /// Runs a step. The error names the step.
    pub(crate) fn run<T>(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        eprintln!("== {name}");
        let (started, used) = (Instant::now(), processor_time());
        let outcome = step();
        let processor = processor_time().saturating_sub(used);
        self.times.push((name, StepTime { wall: started.elapsed(), processor }));
        outcome.context(name)
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32} {:>8} {:>12}", "step", "seconds", "CPU seconds")?;
        let mut total = StepTime { wall: Duration::ZERO, processor: Duration::ZERO };
        for (name, time) in &self.times {
            row(f, name, time)?;
            total.wall += time.wall;
            total.processor += time.processor;
        }
        row(f, "total", &total)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, times: &StepTime) -> fmt::Result {
    let [wall, processor] = [times.wall, times.processor].map(|time| time.as_secs_f64());
    writeln!(f, "{name:<32} {wall:>8.0} {processor:>12.0}")
}

/// Returns the CPU time of all child processes that have been waited for.
fn processor_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let [user, system] = [usage.user_time(), usage.system_time()].map(|time| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    });
    user + system
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_table_has_each_step_that_has_started() {
        let mut steps = Steps::default();
        steps.run("build", || Ok(())).unwrap();
        let error = steps.run("lints", || Err::<(), _>(anyhow!("two warnings"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "lints: two warnings");
        let names = steps.to_string();
        let names: Vec<_> = names.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, ["step", "build", "lints", "total"]);
    }
}
