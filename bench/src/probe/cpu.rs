//! CPU time of the whole system.
//!
//! Invariant: idle time, I/O wait and steal time do not count.

use anyhow::Result;

/// Linux' USER_HZ, the unit of /proc/stat; the same on all supported machines.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns the seconds that all processors have worked since boot.
pub(crate) fn seconds() -> Result<f64> {
    super::read_value("/proc/stat", parse)
}

fn parse(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // Guest time, in later fields, is included in user and nice.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else { return None };
    Some((user + nice + system + irq + softirq) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_wait_and_steal_time_do_not_count() {
        assert_eq!(parse("cpu  1 2 4 1000 2000 8 16 4000 1 1\ncpu0 1\n"), Some(0.31));
        assert_eq!(parse("cpu0 1 2 3 4 5 6 7\n"), None);
    }
}
