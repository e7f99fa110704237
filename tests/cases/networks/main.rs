//! Client, program and servers on hosts of their own (network namespaces): topologies, links that
//! lose packets, forwarded packets, and attackers.

mod blind_attacks;
mod forwarding;
mod hosts;
mod link_conditions;
mod splice;
mod topologies;
