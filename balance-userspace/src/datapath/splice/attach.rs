//! The interfaces to which the program is attached: those through which peers of spliced
//! connections are reached.
//!
//! The program is attached to an interface when the first such peer appears. Invariant: with TCX
//! (from Linux 6.6 on) the kernel detaches the program when the process exits, because nothing is
//! pinned. On an older kernel the filter of a killed process stays until the next process starts.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType, tc::SchedClassifierLinkId},
};
use balance_ebpf::{names, splice::LOOPBACK};
use tracing::warn;

use super::{legacy_tc::FilterHandle, routes::Routes};
use crate::{
    datapath::offload::object::{LoadError, program},
    sys,
    throttle::Throttle,
};

/// Attaches the program to interfaces.
pub(super) struct Interfaces {
    routes: Routes,
    attached: Mutex<Attached>,
}

struct Attached {
    object: Ebpf,
    /// By interface index.
    links: HashMap<u32, SchedClassifierLinkId>,
    /// The handle of this process's filters, on kernels without TCX.
    filter_handle: Option<FilterHandle>,
    /// Another program on loopback runs before this one.
    is_behind: bool,
}

static ATTACH_WARNINGS: Throttle = Throttle::new(Duration::from_secs(10));

/// The largest interface index that fits into the mark of a rewritten packet.
const MAX_IFINDEX: u32 = u16::MAX as u32;

impl Interfaces {
    /// Takes the object with the loaded program, and attaches the program to loopback for the
    /// self-test.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn new(
        object: Ebpf,
        filter_handle: Option<FilterHandle>,
    ) -> Result<Self, LoadError> {
        let routes = Routes::open().map_err(LoadError::from)?;
        let mut attached =
            Attached { object, links: HashMap::new(), filter_handle, is_behind: false };
        attached.add(LOOPBACK, "lo")?;
        Ok(Self { routes, attached: Mutex::new(attached) })
    }

    /// The routes of this host.
    pub(super) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Whether rewritten packets must be reinjected on loopback: a program that runs before this
    /// one, for example another balance's, would not see them otherwise.
    pub(super) fn is_behind(&self) -> bool {
        self.lock().is_behind
    }

    /// Attaches the program to an interface, unless it is attached already. False if the interface
    /// is unsuitable.
    ///
    /// # Errors
    /// When the interface is gone, or the kernel refuses.
    pub(super) fn attach(&self, interface: u32) -> io::Result<bool> {
        if interface > MAX_IFINDEX {
            return Ok(false);
        }
        if self.lock().links.contains_key(&interface) {
            return Ok(true);
        }
        let Some(name) = self.routes.ethernet(interface)? else { return Ok(false) };
        let added = self.lock().add(interface, &name);
        added.map_err(|refusal| {
            if let Some(suppressed) = ATTACH_WARNINGS.pass(Instant::now()) {
                warn!(
                    interface = %name,
                    error = %refusal,
                    suppressed,
                    "cannot attach the BPF program to an interface"
                );
            }
            io::Error::other(refusal.to_string())
        })?;
        Ok(true)
    }

    /// Detaches the program from all interfaces. An idle program costs each packet some time as
    /// well.
    pub(super) fn detach_all(&self) {
        let mut attached = self.lock();
        for interface in attached.links.keys().copied().collect::<Vec<_>>() {
            attached.remove(interface);
        }
    }

    /// Forgets interfaces that no longer exist.
    pub(super) fn forget_lost(&self) {
        let mut attached = self.lock();
        let lost: Vec<u32> = attached
            .links
            .keys()
            .copied()
            .filter(|&interface| self.routes.ethernet(interface).is_err())
            .collect();
        for interface in lost {
            attached.remove(interface);
        }
    }

    /// Lets a test act on the loaded object.
    #[cfg(test)]
    pub(super) fn with_object<T>(&self, act: impl FnOnce(&mut Ebpf) -> T) -> T {
        act(&mut self.lock().object)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Attached> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attached {
    fn add(&mut self, interface: u32, name: &str) -> Result<(), LoadError> {
        if self.links.contains_key(&interface) {
            return Ok(());
        }
        let program: &mut SchedClassifier = program(&mut self.object, names::SPLICE)?;
        let link = match &self.filter_handle {
            None => program.attach(name, TcAttachType::Ingress).map_err(LoadError::from)?,
            Some(handle) => handle.attach(program, name)?,
        };
        if interface == LOOPBACK {
            // Read after attaching: another program may be attached at the same moment. If the
            // kernel does not report the order, another program may be first.
            let first = sys::first_ingress_program(LOOPBACK).ok().flatten();
            self.is_behind = first != Some(program.info().map_err(LoadError::from)?.id());
        }
        self.links.insert(interface, link);
        Ok(())
    }

    fn remove(&mut self, interface: u32) {
        let program: Result<&mut SchedClassifier, _> = program(&mut self.object, names::SPLICE);
        if let (Some(link), Ok(program)) = (self.links.remove(&interface), program) {
            // The link may have gone with the interface.
            let _ = program.detach(link);
        }
    }
}
