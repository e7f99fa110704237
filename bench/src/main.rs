//! Load-testing harness of balance: measures it beside its peers, on the same work in the same
//! run.
//!
//! Invariant: no figure is made up: what cannot be measured is named and left out.

fn main() {}
