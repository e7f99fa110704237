//! The program as a filter, on kernels without TCX (before 6.6): such a filter stays when its process
//! is killed.
//!
//! Each process has a mark, a name that the kernel takes back with it, and its filters have the
//! number of that. Invariant: a filter is taken away for another process only if nobody has its mark;
//! marks are known where the interfaces are, in the same network namespace.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process,
};

use aya::{
    programs::{
        SchedClassifier, TcAttachType,
        links::Link as _,
        tc::{
            self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle,
        },
    },
    util::KernelVersion,
};
use balance_ebpf::names;
use nix::net::if_::if_nameindex;
use tracing::debug;

use super::routes::{self, Filter};
use crate::datapath::offload::object::LoadError;

/// The first kernel that needs no filter; aya's `attach` asks the same.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// A mark that is held.
pub(super) struct Mark {
    number: u32,
    _held: UnixDatagram,
}

impl Mark {
    /// The mark of this process, where the kernel needs filters, with what killed ones have left taken
    /// away: what goes through it may keep the processors busy.
    pub(super) fn find() -> io::Result<Option<Self>> {
        if KernelVersion::current().is_ok_and(|version| version >= TCX) {
            return Ok(None);
        }
        remove_left()?;
        Self::make().map(Some)
    }

    /// One that nobody has. Processes of several PID namespaces may have the same number.
    fn make() -> io::Result<Self> {
        (process::id()..)
            .find_map(|number| match hold(number) {
                Ok(held) => Some(Ok(Self { number, _held: held })),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
                Err(error) => Some(Err(error)),
            })
            .expect("there are more numbers than processes")
    }

    /// Attaches the program to what arrives on an interface.
    pub(super) fn attach(
        &self,
        program: &mut SchedClassifier,
        interface: &str,
    ) -> Result<SchedClassifierLinkId, LoadError> {
        // A filter needs a qdisc, which stays when we are gone: only where we are, and only if nobody
        // has made it.
        let _ = tc::qdisc_add_clsact(interface);
        let handle = TcHandle::from(self.number);
        let options = TcAttachOptions::Netlink(NlOptions { handle, ..NlOptions::default() });
        let attached = program.attach_with_options(interface, TcAttachType::Ingress, options);
        attached.map_err(LoadError::from)
    }
}

fn hold(number: u32) -> io::Result<UnixDatagram> {
    let name = format!("{}.{number}", names::SPLICE);
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Takes away what processes that were killed have left. What cannot be looked at, or goes meanwhile,
/// is left alone.
fn remove_left() -> io::Result<()> {
    for interface in &if_nameindex()? {
        let name = interface.name().to_string_lossy();
        let filters = routes::filters(interface.index(), names::SPLICE);
        let removed = filters.and_then(|filters| {
            filters.iter().try_for_each(|filter| remove_if_left(&name, filter))
        });
        if let Err(error) = removed {
            debug!(interface = %name, %error, "cannot check for filters of a killed process");
        }
    }
    Ok(())
}

fn remove_if_left(interface: &str, filter: &Filter) -> io::Result<()> {
    // While we have its mark nobody else gets it.
    let Ok(_held) = hold(filter.handle) else { return Ok(()) };
    let handle = TcHandle::from(filter.handle);
    let (kind, priority) = (TcAttachType::Ingress, filter.priority);
    let link = SchedClassifierLink::attached(interface, kind, priority, handle, None)?;
    link.detach().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_free_again_when_who_had_it_is_gone() {
        let mark = Mark::make().unwrap();
        let taken = hold(mark.number).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert_ne!(Mark::make().unwrap().number, mark.number);
        let number = mark.number;
        drop(mark);
        hold(number).unwrap();
    }
}
