//! Which server a client gets, and which one when the first does not answer.

mod failover;
mod round_robin;
