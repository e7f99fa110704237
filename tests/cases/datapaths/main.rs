//! Bytes, half-closes and resets on every datapath, with client, program and servers on one host.

mod closing;
mod early;
mod families;
mod handovers;
mod integrity;
mod overlap;
mod self_test;
mod stall;
