//! Sockets in /proc/net: listening ports and TIME_WAIT.
//!
//! Invariant: the check for a listener does not connect, so a proxy sees no client outside the
//! load.

use anyhow::Result;

use super::{number_after, read_value};

/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// Returns true if any process listens on this port and an IPv4 address in the network namespace of
/// this process. Returns an error if this process has ended.
pub(crate) fn listens(process: u32, port: u16) -> Result<bool> {
    read_value(&format!("/proc/{process}/net/tcp"), |text| Some(listens_in(text, port)))
}

/// Returns the number of sockets in TIME_WAIT.
pub(crate) fn time_wait() -> Result<u64> {
    read_value("/proc/net/sockstat", |text| number_after(text, "TCP:", "tw"))
}

fn listens_in(text: &str, port: u16) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().and_then(|local| local.rsplit_once(':'));
        let state = words.nth(1);
        local.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port))
            && state == Some(LISTENING)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_are_found() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
                    0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:0 0 0\n   \
                    1: 0100007F:1F91 0100007F:0050 01 00000000:00000000 00:0 0 0\n";
        assert!(listens_in(text, 8080));
        assert!(!listens_in(text, 8081));
        assert!(!listens_in(text, 80));
    }
}
