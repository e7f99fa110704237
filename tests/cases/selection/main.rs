//! Which server a client gets, and which one it gets when the first does not answer.

mod failover;
mod round_robin;
