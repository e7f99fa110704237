//! The BPF objects inside this program, and what their refusal means.
//!
//! Invariant: every way in which a kernel says no becomes a [`LoadError`] that names the reason and
//! tells permission from inability.

use std::{
    convert::Infallible,
    fmt,
    future::pending,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::MapError,
    programs::{Program, ProgramError},
};
use tokio::io::Interest;
use tracing::error;

use super::mapped::Mapped;
use crate::{
    error::StartError,
    io::epoll,
    sys::privileges::{self, Capability},
};

/// The objects, when this build has them; see build.rs.
#[cfg(bpf_objects)]
mod built {
    pub(crate) static VERDICT: &[u8] = aya::include_bytes_aligned!(env!("BALANCE_BPF_VERDICT"));
    pub(crate) static SPLICE: &[u8] = aya::include_bytes_aligned!(env!("BALANCE_BPF_SPLICE"));
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Object {
    /// For the sockmap datapath.
    Verdict,
    /// For the splice datapath.
    Splice,
}

impl Object {
    pub(crate) fn bytes(self) -> Result<&'static [u8], LoadError> {
        #[cfg(bpf_objects)]
        return Ok(match self {
            Self::Verdict => built::VERDICT,
            Self::Splice => built::SPLICE,
        });
        #[cfg(not(bpf_objects))]
        Err(LoadError::NotBuilt)
    }
}

/// Why a datapath is not used.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// This build has no BPF object in it.
    #[cfg_attr(bpf_objects, expect(dead_code, reason = "this build has them"))]
    NotBuilt,
    /// The kernel does not let this user do it.
    NotPermitted(String),
    /// The kernel lacks something, or did not move the bytes as it should.
    Unsupported(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => {
                f.write_str("this binary was built without the BPF objects (cargo xtask build)")
            }
            Self::NotPermitted(why) => {
                write!(f, "{why} (needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)")
            }
            Self::Unsupported(why) => f.write_str(why),
        }
    }
}

impl LoadError {
    /// For the user who asked for the datapath by `name`.
    pub(crate) fn into_start_error(self, name: &'static str) -> StartError {
        let reason = self.to_string();
        match self {
            Self::NotPermitted(_) => StartError::Forbidden { name, reason },
            Self::NotBuilt | Self::Unsupported(_) => StartError::Unavailable { name, reason },
        }
    }

    /// From whatever error the kernel's answer is wrapped in.
    pub(crate) fn from(error: impl std::error::Error + 'static) -> Self {
        let mut chain: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        let mut text = Vec::new();
        let mut forbidden = false;
        while let Some(cause) = chain {
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                forbidden |= is_forbidden(io);
            }
            let line = reason(&cause.to_string());
            if !text.iter().any(|t: &String| t.contains(&line)) {
                text.push(line);
            }
            chain = cause.source();
        }
        let text = text.join(": ");
        if forbidden { Self::NotPermitted(text) } else { Self::Unsupported(text) }
    }
}

/// Whether an error is about what this process may do. The verifier says EACCES too, of programs
/// that it refuses to everybody as well as of what only some may do.
fn is_forbidden(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(libc::EACCES) => !privileges::has_capability(Capability::CAP_PERFMON),
        _ => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The first line of an error; of a refusal by the verifier what it says last, before its figures.
fn reason(error: &str) -> String {
    const FIGURES: [&str; 3] = ["verification time", "stack depth", "processed"];
    let first = error.lines().next().unwrap_or_default();
    let Some((act, log)) = error.split_once(" Verifier output: ") else {
        return first.to_owned();
    };
    let mut said = log.lines().rev().map(str::trim);
    let last = said
        .find(|line| !line.is_empty() && !FIGURES.iter().any(|figure| line.starts_with(figure)));
    format!("{act} {}", last.unwrap_or_default())
}

/// Takes a map of an object into its own type.
pub(crate) fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &str,
) -> Result<T, LoadError> {
    let map = object
        .take_map(name)
        .ok_or_else(|| LoadError::Unsupported(format!("the BPF object has no map {name}")))?;
    map.try_into().map_err(LoadError::from)
}

/// Takes an array of `count` elements that was made mappable, and maps it.
pub(crate) fn map_array<T>(
    object: &mut Ebpf,
    name: &str,
    count: usize,
) -> Result<Mapped<T>, LoadError> {
    match object.take_map(name) {
        Some(aya::maps::Map::Array(array)) => {
            Mapped::map(array.fd().as_fd(), count).map_err(LoadError::from)
        }
        _ => Err(LoadError::Unsupported(format!("the BPF object has no array {name}"))),
    }
}

/// A program of an object, as one of its type.
pub(crate) fn program<'a, P>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = object
        .program_mut(name)
        .ok_or_else(|| LoadError::Unsupported(format!("the BPF object has no program {name}")))?;
    program.try_into().map_err(LoadError::from)
}

/// What the kernel said to a map operation.
pub(crate) fn map_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(e) => e.io_error,
        other => io::Error::other(other),
    }
}

/// Calls `act` whenever the descriptor `events` of the kernel is readable. Never returns. After an
/// error `act` is not called any more.
pub(crate) async fn on_readable(events: io::Result<OwnedFd>, act: impl Fn()) -> Infallible {
    let result: io::Result<()> = async {
        let registered = epoll::register(events?, Interest::READABLE)?;
        loop {
            registered.readable().await?.clear_ready();
            act();
        }
    }
    .await;
    if let Err(error) = result {
        error!(%error, "cannot read BPF events, connections may stall");
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refusal_by_the_verifier_its_reason_is_told() {
        let error = "the call returned Permission denied. Verifier output: 0: R1=ctx() R10=fp0\n\
                     376: (85) call bpf_skb_load_bytes#26\n\
                     R3 min value is outside of the allowed memory range\n\
                     verification time 28664 usec\nstack depth 96+0\nprocessed 503 insns\n\n";
        assert_eq!(
            reason(error),
            "the call returned Permission denied. R3 min value is outside of the allowed memory \
             range"
        );
        assert_eq!(reason("no such thing\nand more"), "no such thing");
    }
}
