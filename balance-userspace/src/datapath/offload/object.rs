//! The BPF objects in this executable, and the errors of loading them.
//!
//! Invariant: every error of the kernel becomes a [`LoadError`], which names the reason and tells a
//! missing permission from a missing feature.

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

/// The objects, if this build has them; see build.rs.
#[cfg(bpf_objects)]
mod built {
    pub(crate) static SOCKMAP: &[u8] = aya::include_bytes_aligned!(env!("BALANCE_BPF_SOCKMAP"));
    pub(crate) static SPLICE: &[u8] = aya::include_bytes_aligned!(env!("BALANCE_BPF_SPLICE"));
}

/// A BPF object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Object {
    /// For the sockmap datapath.
    Sockmap,
    /// For the splice datapath.
    Splice,
}

impl Object {
    /// The object file.
    ///
    /// # Errors
    /// [`LoadError::NotBuilt`].
    pub(crate) fn bytes(self) -> Result<&'static [u8], LoadError> {
        #[cfg(bpf_objects)]
        return Ok(match self {
            Self::Sockmap => built::SOCKMAP,
            Self::Splice => built::SPLICE,
        });
        #[cfg(not(bpf_objects))]
        Err(LoadError::NotBuilt)
    }
}

/// Why a datapath is not used.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// This build contains no BPF objects.
    #[cfg_attr(bpf_objects, expect(dead_code, reason = "this build has them"))]
    NotBuilt,
    /// The process lacks a capability.
    NotPermitted(String),
    /// The kernel lacks a feature, or the self-test failed.
    Unsupported(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => {
                f.write_str("this binary was built without the BPF objects (cargo xtask build)")
            }
            Self::NotPermitted(reason) => {
                write!(f, "{reason} (needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)")
            }
            Self::Unsupported(reason) => f.write_str(reason),
        }
    }
}

impl LoadError {
    /// The error for a user who has asked for the datapath `name`.
    pub(crate) fn into_start_error(self, name: &'static str) -> StartError {
        let reason = self.to_string();
        match self {
            Self::NotPermitted(_) => StartError::Forbidden { name, reason },
            Self::NotBuilt | Self::Unsupported(_) => StartError::Unavailable { name, reason },
        }
    }

    /// Converts an error whose chain of sources contains the kernel's error.
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

/// Whether an error means a missing capability. EACCES alone does not: the verifier returns it both
/// for invalid programs and for programs that need CAP_PERFMON.
fn is_forbidden(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(libc::EACCES) => !privileges::has_capability(Capability::CAP_PERFMON),
        _ => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The first line of an error. For a rejection by the verifier, the last line of its log before the
/// statistics.
fn reason(error: &str) -> String {
    const STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed"];
    let first = error.lines().next().unwrap_or_default();
    let Some((act, log)) = error.split_once(" Verifier output: ") else {
        return first.to_owned();
    };
    let mut lines = log.lines().rev().map(str::trim);
    let last = lines
        .find(|line| !line.is_empty() && !STATISTICS.iter().any(|name| line.starts_with(name)));
    format!("{act} {}", last.unwrap_or_default())
}

/// Takes a map out of an object, as a map of type `T`.
pub(crate) fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &str,
) -> Result<T, LoadError> {
    let map = object
        .take_map(name)
        .ok_or_else(|| LoadError::Unsupported(format!("the BPF object has no map {name}")))?;
    map.try_into().map_err(LoadError::from)
}

/// Takes an array of `count` elements with the flag BPF_F_MMAPABLE out of an object, and maps it.
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

/// A program of an object, as a program of type `P`.
pub(crate) fn program<'a, P>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = object
        .program_mut(name)
        .ok_or_else(|| LoadError::Unsupported(format!("the BPF object has no program {name}")))?;
    program.try_into().map_err(LoadError::from)
}

/// The system error of a map operation.
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
    fn an_error_of_the_verifier_contains_its_reason() {
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
