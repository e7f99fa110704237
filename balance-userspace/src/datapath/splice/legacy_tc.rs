//! Attaches the program as a tc filter, on kernels without TCX (before Linux 6.6). Such a filter
//! stays when its process is killed.
//!
//! The filters of a process have a handle that no other process uses: the process holds an abstract
//! socket with the handle in its name, which the kernel frees with the process. Invariant: a
//! process removes the filters of another process only if no process holds their handle. Names of
//! abstract sockets belong to a network namespace, as interfaces do.

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

/// The first kernel with TCX. aya's `attach` makes the same distinction.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// A handle for filters, held by this process.
pub(super) struct FilterHandle {
    handle: u32,
    _held: UnixDatagram,
}

impl FilterHandle {
    /// Removes the filters of killed processes, whose packets would keep the processors busy, and
    /// takes a handle. `None` on a kernel with TCX.
    ///
    /// # Errors
    /// When the interfaces or a socket are not accessible.
    pub(super) fn find() -> io::Result<Option<Self>> {
        if KernelVersion::current().is_ok_and(|version| version >= TCX) {
            return Ok(None);
        }
        remove_leftovers()?;
        Self::take().map(Some)
    }

    /// Takes a handle that no process holds. Processes in different PID namespaces may have the
    /// same number.
    fn take() -> io::Result<Self> {
        (process::id()..)
            .find_map(|handle| match hold(handle) {
                Ok(held) => Some(Ok(Self { handle, _held: held })),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
                Err(error) => Some(Err(error)),
            })
            .expect("there are more numbers than processes")
    }

    /// Attaches the program to the ingress of an interface.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn attach(
        &self,
        program: &mut SchedClassifier,
        interface: &str,
    ) -> Result<SchedClassifierLinkId, LoadError> {
        // A filter needs a qdisc, which stays when the process exits. It is added only where the
        // program is attached, and only if it does not exist.
        let _ = tc::qdisc_add_clsact(interface);
        let handle = TcHandle::from(self.handle);
        let options = TcAttachOptions::Netlink(NlOptions { handle, ..NlOptions::default() });
        let attached = program.attach_with_options(interface, TcAttachType::Ingress, options);
        attached.map_err(LoadError::from)
    }
}

/// Binds the abstract socket of a handle.
fn hold(handle: u32) -> io::Result<UnixDatagram> {
    let name = format!("{}.{handle}", names::SPLICE);
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Removes the filters of killed processes. Ignores an interface that cannot be read or disappears.
fn remove_leftovers() -> io::Result<()> {
    for interface in &if_nameindex()? {
        let name = interface.name().to_string_lossy();
        let filters = routes::filters(interface.index(), names::SPLICE);
        let removed = filters.and_then(|filters| {
            filters.iter().try_for_each(|filter| remove_if_leftover(&name, filter))
        });
        if let Err(error) = removed {
            debug!(interface = %name, %error, "cannot check for filters of a killed process");
        }
    }
    Ok(())
}

fn remove_if_leftover(interface: &str, filter: &Filter) -> io::Result<()> {
    // While this process holds the handle, no other process can take it.
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
    fn a_handle_is_free_again_when_its_holder_is_gone() {
        let held = FilterHandle::take().unwrap();
        let taken = hold(held.handle).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert_ne!(FilterHandle::take().unwrap().handle, held.handle);
        let handle = held.handle;
        drop(held);
        hold(handle).unwrap();
    }
}
