//! Where scenarios run: a datapath, on one host or between hosts.
//!
//! Invariant: every target has a name that `--datapath` accepts.

use std::{fmt, str::FromStr};

use crate::{Datapath, Family};

/// A datapath, and whether client, program and backend have their own hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The datapath.
    pub datapath: Datapath,
    /// IP version between the hosts; `None` for loopback.
    pub apart: Option<Family>,
}

impl Target {
    /// All targets with their names.
    pub const ALL: [(&'static str, Self); 7] = [
        ("relay", Self::here(Datapath::Relay)),
        ("sockmap", Self::here(Datapath::Sockmap)),
        ("handover", Self::here(Datapath::Handover)),
        ("splice", Self::here(Datapath::Splice)),
        ("splice-apart", Self::apart(Datapath::Splice, Family::V4)),
        ("splice-apart-v6", Self::apart(Datapath::Splice, Family::V6)),
        ("sockmap-apart-v6", Self::apart(Datapath::Sockmap, Family::V6)),
    ];

    const fn here(datapath: Datapath) -> Self {
        Self { datapath, apart: None }
    }

    const fn apart(datapath: Datapath, family: Family) -> Self {
        Self { datapath, apart: Some(family) }
    }

    /// Whether the target needs a kernel datapath.
    pub fn needs_kernel(self) -> bool {
        self.datapath != Datapath::Relay
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(_, target)| target == self);
        f.write_str(known.map_or("unnamed", |(name, _)| name))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, target)| *target).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("no such datapath, there are {}", names.join(", "))
        })
    }
}
