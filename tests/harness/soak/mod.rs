//! Lives of connections at random: what both peers of a connection do is planned from a seed, done
//! on real sockets through the program, written down, and judged.
//!
//! A *life* is one client and the backend that it comes to; it has a number, and belongs to a
//! *run*, which has a seed. A *script* is what one side does. Invariant: a plan depends on seed and
//! number alone, so that a life which went wrong can be lived again by itself.

mod backend_listener;
mod figures;
mod lane;
mod leak_checks;
mod payload;
mod peer;
mod plan;
mod record;
mod run;
mod setting;
mod verdict;

pub use figures::Figures;
pub use payload::{Ear, Voice};
pub use plan::{Act, Break, Ending, Moment, Plan, Reception, Rest, Script};
pub use record::{End, Record};
pub use run::{Failure, Limit, Run};
pub use setting::Setting;
pub use verdict::{Fault, judge};
