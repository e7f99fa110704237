//! Sockets: who listens, how many linger.
//!
//! Invariant: looking does not connect: a peer never sees a client that is not the load.

use anyhow::Result;

use super::{number_after, read_value};

/// The state of a socket that listens, as /proc/net/tcp writes it.
const LISTENING: &str = "0A";

/// True if somebody listens on that port, on an IPv4 address of the network that the process is
/// in; an error once it has ended.
pub(crate) fn listens(process: u32, port: u16) -> Result<bool> {
    read_value(&format!("/proc/{process}/net/tcp"), |text| Some(listens_in(text, port)))
}

/// Sockets that have ended and linger (TIME_WAIT).
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
    fn only_sockets_that_listen_are_found() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
                    0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:0 0 0\n   \
                    1: 0100007F:1F91 0100007F:0050 01 00000000:00000000 00:0 0 0\n";
        assert!(listens_in(text, 8080));
        assert!(!listens_in(text, 8081));
        assert!(!listens_in(text, 80));
    }
}
