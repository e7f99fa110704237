//! The relay: bytes pass through user space. Works everywhere, without privileges, and takes
//! what the other datapaths cannot.
//!
//! Invariant: at most one buffer for each direction, and none while it waits for bytes.

use std::cell::Cell;

use super::{
    Name,
    buffers::Pool,
    pair::{Broken, Direction, Pair, Report},
    pump::{self, Received},
};

/// Buffers that one direction may move before others of the same worker get their turn.
const TURNS: u32 = 8;

/// Carries a pair to its end.
pub(crate) async fn carry(pair: Pair, pool: &Pool) -> Report {
    let (sent, rcvd) = (Cell::new(0), Cell::new(0));
    let up = one_way(pair.up(), pool, &sent);
    let down = one_way(pair.down(), pool, &rcvd);
    let end = pair.clone().run(up, down).await;
    Report { datapath: Name::Relay, sent: sent.get(), rcvd: rcvd.get(), end }
}

/// Moves bytes until the source ends, then passes the end on. `moved` counts along.
async fn one_way(direction: Direction, pool: &Pool, moved: &Cell<u64>) -> Result<(), Broken> {
    loop {
        pump::readable(&direction).await?;
        for _ in 0..TURNS {
            match pump::receive(&direction, pool)? {
                Received::Bytes(buffer, n) => {
                    pump::send_all(&direction.target, &buffer[..n])
                        .await
                        .map_err(|e| direction.target_broke(e))?;
                    moved.set(moved.get() + n as u64);
                    if n < buffer.len() {
                        // The source is empty, as far as one can tell: ask the ring.
                        break;
                    }
                }
                Received::Nothing => break,
                Received::End => {
                    direction.end_target();
                    return Ok(());
                }
            }
        }
    }
}
