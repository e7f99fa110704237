//! The relay: bytes pass through user space. Works everywhere, without privileges, and takes
//! what the other datapaths cannot.
//!
//! Invariant: at most one buffer for each direction, and none while it waits for bytes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{
    Name,
    buffers::Pool,
    dump::{self, Way},
    pair::{Broken, Direction, Pair, Report},
    pump::{self, Received},
};

/// Buffers that one direction may move before others of the same worker get their turn.
const TURNS: u32 = 8;

/// Carries a pair to its end, and shows its bytes on standard output if asked to.
pub(crate) async fn carry(pair: Pair, pool: &Pool, dump: bool) -> Report {
    let tap = |way| dump.then_some(way);
    let up = one_way(pair.up(), pool, &pair.traffic.sent, tap(Way::Up));
    let down = one_way(pair.down(), pool, &pair.traffic.rcvd, tap(Way::Down));
    let end = pair.clone().run(up, down).await;
    Report { datapath: Name::Relay, end }
}

/// Moves bytes until the source ends, then passes the end on. `moved` counts along.
async fn one_way(
    direction: Direction,
    pool: &Pool,
    moved: &AtomicU64,
    tap: Option<Way>,
) -> Result<(), Broken> {
    loop {
        pump::readable(&direction).await?;
        for _ in 0..TURNS {
            match pump::receive(&direction, pool)? {
                Received::Bytes(buffer, n) => {
                    if let Some(way) = tap {
                        dump::print(way, &buffer[..n]);
                    }
                    pump::send_all(&direction.target, &buffer[..n])
                        .await
                        .map_err(|e| direction.target_broke(e))?;
                    moved.fetch_add(n as u64, Relaxed);
                    if n < buffer.len() {
                        // The source is empty, as far as one can tell: ask the ring.
                        break;
                    }
                }
                Received::Nothing => break,
                Received::End => {
                    if let Some(way) = tap {
                        dump::print(way, &[]);
                    }
                    direction.end_target();
                    return Ok(());
                }
            }
        }
    }
}
