//! The log of the BPF programs, when balance runs with `-d`.
//!
//! Invariant: without `-d` the programs log nothing, and no task waits for log lines.

use std::{
    convert::Infallible,
    future::pending,
    os::fd::AsFd as _,
    sync::{Mutex, PoisonError},
};

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::object::{LoadError, on_readable};

/// The log of one object; empty without `-d`.
pub(crate) struct ProgramLog(Option<Mutex<EbpfLogger<&'static dyn log::Log>>>);

impl ProgramLog {
    /// The log level to set in an object before it is loaded.
    pub(crate) fn level(debug: bool) -> u8 {
        u8::from(debug) * log::Level::Debug as u8
    }

    /// Takes the log out of a loaded object.
    pub(crate) fn take(object: &mut Ebpf, debug: bool) -> Result<Self, LoadError> {
        let log = debug.then(|| EbpfLogger::init(object)).transpose().map_err(LoadError::from)?;
        Ok(Self(log.map(Mutex::new)))
    }

    /// Copies the log lines to the log of this process. Never returns.
    pub(crate) async fn follow(&self) -> Infallible {
        let Some(log) = &self.0 else { return pending().await };
        let lock = || log.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = lock().as_fd().try_clone_to_owned();
        on_readable(buffer, || lock().flush()).await
    }
}
