//! Random scenarios. A seed determines what both peers of a connection do; the peers do it on real
//! sockets through the program and record it; the records are judged.
//!
//! A *scenario* is one client and the backend that it reaches. It has a number and belongs to a
//! *run*, which has a seed. A *script* is what one side does.
//!
//! Invariant: a plan depends only on seed and number, so a failed scenario can be repeated alone.

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
