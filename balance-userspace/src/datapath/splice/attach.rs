//! The interfaces that the program is attached to: those through which the peers of spliced
//! connections are reached, from when the first of them is.
//!
//! Invariant: with TCX (from 6.6 on) the program is detached with the process, as nothing is
//! pinned; the filter of an older kernel stays if the process is killed, until the next one starts.

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

use super::{legacy_tc::Mark, routes::Routes};
use crate::{
    datapath::offload::object::{LoadError, program},
    sys,
    throttle::Throttle,
};

/// Attaches the program.
pub(super) struct Devices {
    routes: Routes,
    attached: Mutex<Attached>,
}

struct Attached {
    object: Ebpf,
    devices: HashMap<u32, SchedClassifierLinkId>,
    /// What filters are known by, on kernels that need them.
    mark: Option<Mark>,
    /// Another program sees what arrives on loopback before ours.
    is_behind: bool,
}

static TROUBLE: Throttle = Throttle::new(Duration::from_secs(10));

/// The mark of a rewritten packet has room for no more.
const MOST: u32 = u16::MAX as u32;

impl Devices {
    /// Takes the object whose program has been loaded, and attaches it to loopback, where the
    /// self-test is.
    pub(super) fn new(object: Ebpf, mark: Option<Mark>) -> Result<Self, LoadError> {
        let routes = Routes::open().map_err(LoadError::from)?;
        let mut attached = Attached { object, devices: HashMap::new(), mark, is_behind: false };
        attached.add(LOOPBACK, "lo")?;
        Ok(Self { routes, attached: Mutex::new(attached) })
    }

    /// The routes of this host.
    pub(super) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Whether rewritten packets have to arrive on loopback anew, because a program that came
    /// before ours would not see them: another balance's, say.
    pub(super) fn is_behind(&self) -> bool {
        self.lock().is_behind
    }

    /// Sees to it that the program is attached to an interface; false if it cannot be used there.
    ///
    /// # Errors
    /// When the interface is gone.
    pub(super) fn cover(&self, interface: u32) -> io::Result<bool> {
        if interface > MOST {
            return Ok(false);
        }
        if self.lock().devices.contains_key(&interface) {
            return Ok(true);
        }
        let Some(name) = self.routes.ethernet(interface)? else { return Ok(false) };
        let added = self.lock().add(interface, &name);
        added.map_err(|refusal| {
            if let Some(suppressed) = TROUBLE.pass(Instant::now()) {
                warn!(interface = %name, error = %refusal, suppressed, "cannot attach the BPF program to an interface");
            }
            io::Error::other(refusal.to_string())
        })?;
        Ok(true)
    }

    /// Lets go of all interfaces: a program that has nothing to do costs each packet some time, too.
    pub(super) fn let_go(&self) {
        let mut attached = self.lock();
        for interface in attached.devices.keys().copied().collect::<Vec<_>>() {
            attached.remove(interface);
        }
    }

    /// Lets go of interfaces that are gone.
    pub(super) fn forget_lost(&self) {
        let mut attached = self.lock();
        let lost: Vec<u32> = attached
            .devices
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
        if self.devices.contains_key(&interface) {
            return Ok(());
        }
        let program: &mut SchedClassifier = program(&mut self.object, names::SPLICE)?;
        let link = match &self.mark {
            None => program.attach(name, TcAttachType::Ingress).map_err(LoadError::from)?,
            Some(mark) => mark.attach(program, name)?,
        };
        if interface == LOOPBACK {
            // Not before: another may be attached at the same moment. Where it cannot be asked, it
            // may be so.
            let first = sys::first_ingress_program(LOOPBACK).ok().flatten();
            self.is_behind = first != Some(program.info().map_err(LoadError::from)?.id());
        }
        self.devices.insert(interface, link);
        Ok(())
    }

    fn remove(&mut self, interface: u32) {
        let program: Result<&mut SchedClassifier, _> = program(&mut self.object, names::SPLICE);
        if let (Some(link), Ok(program)) = (self.devices.remove(&interface), program) {
            // It has gone with the interface.
            let _ = program.detach(link);
        }
    }
}
