//! The steps of a task, and the time that each takes.
//!
//! Invariant: a step that has begun is in the table, also if it fails.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};

/// Steps in their order.
#[derive(Default)]
pub(crate) struct Steps {
    taken: Vec<(&'static str, Taken)>,
}

/// What a step takes: wall-clock time, and processor time of the processes that end in it.
struct Taken {
    wall: Duration,
    processor: Duration,
}

impl Steps {
    /// Runs a step; its error names the step.
    pub(crate) fn run<T>(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        eprintln!("== {name}");
        let (begun, used) = (Instant::now(), processor_time());
        let outcome = step();
        let processor = processor_time().saturating_sub(used);
        self.taken.push((name, Taken { wall: begun.elapsed(), processor }));
        outcome.context(name)
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32} {:>8} {:>12}", "step", "seconds", "processor s")?;
        let mut total = Taken { wall: Duration::ZERO, processor: Duration::ZERO };
        for (name, taken) in &self.taken {
            row(f, name, taken)?;
            total.wall += taken.wall;
            total.processor += taken.processor;
        }
        row(f, "total", &total)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, taken: &Taken) -> fmt::Result {
    let [wall, processor] = [taken.wall, taken.processor].map(|time| time.as_secs_f64());
    writeln!(f, "{name:<32} {wall:>8.0} {processor:>12.0}")
}

/// Of all child processes that have been waited for.
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
    fn the_table_has_each_step_that_has_begun() {
        let mut steps = Steps::default();
        steps.run("build", || Ok(())).unwrap();
        let error = steps.run("lints", || Err::<(), _>(anyhow!("two warnings"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "lints: two warnings");
        let names = steps.to_string();
        let names: Vec<_> = names.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, ["step", "build", "lints", "total"]);
    }
}
