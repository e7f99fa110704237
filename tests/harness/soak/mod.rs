//! Count of connections at random: what both peers of a connection do is planned from a seed, done
//! on real sockets through the program, written down, and judged.
//!
//! A *scenario* is one client and the backend that it comes to; it has a number, and belongs to a
//! *run*, which has a seed. A *script* is what one side does. Invariant: a plan depends on seed and
//! number alone, so that a scenario which went wrong can be result again by itself.

mod backend_listener;
mod lane;
mod leak_checks;
mod payload;
mod peer;
mod plan;
mod record;
mod run;
mod statistics;
mod target;
mod verdict;

pub use payload::{PayloadChecker, PayloadGenerator};
pub use plan::{Act, Break, Ending, Moment, Plan, ReadPause, Reception, Script};
pub use record::{Record, StreamEnd};
pub use run::{Failure, Limit, Run};
pub use statistics::Statistics;
pub use target::Target;
pub use verdict::{Violation, find_violations};
