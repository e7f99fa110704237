//! What an instance needs before a process can serve it: the address of its name, its rights, its
//! listeners and its files.
//!
//! Invariant: a look-up, and the wait for an address in use, run in a thread of their own. The event
//! loop of the supervisor waits for neither.

use std::sync::Arc;

use nix::errno::Errno;
use tokio::task::spawn_blocking;

use super::{
    conf::Line,
    event::{Event, Prepared},
    member::State,
    supervisor::{PASS_ON, Supervisor, cannot_pass_on},
};
use crate::{
    control::instance_files::SocketAccess, error::StartError, instance, io::listener, notify,
    process,
};

impl Supervisor {
    /// Starts an instance: looks up its names and binds its listeners, in a thread. The server
    /// process then serves it.
    pub(super) fn start(&mut self, i: usize) {
        self.instances[i].state = State::Starting;
        self.instances[i].id = self.next_id();
        self.prepare(i);
    }

    /// Prepares an instance that is starting.
    pub(super) fn prepare(&self, i: usize) {
        let instance = &self.instances[i];
        let (id, line, is_bound) =
            (instance.id, instance.line.clone(), !instance.listeners.is_empty());
        let inherited = self.inherited_listeners.addresses_in_use();
        let (threads, sender) = (Arc::clone(&self.threads), self.sender());
        tokio::spawn(async move {
            let permit = threads.acquire_owned().await;
            let prepared = spawn_blocking(move || {
                let access = SocketAccess::of(&line.args)?;
                let (mut address, mut listeners) = (None, Vec::new());
                // Bound listeners stay, even if the name has another address now.
                if !is_bound {
                    address = instance::start::listen_address(&line.args)?;
                    let port = line.name.port;
                    if !inherited.contains(listener::bind_address(address, port)) {
                        let workers = process::start::workers(&line.args);
                        listeners = listener::bind(address, port, workers)?;
                    }
                }
                Ok(Prepared { access, address, listeners })
            });
            let prepared = prepared.await.unwrap_or_else(|error| {
                Err(StartError::System { act: "look up an address", source: error.into() })
            });
            drop(permit);
            let _ = sender.send(Event::Prepared(id, prepared));
        });
    }

    /// The look-ups of an instance are complete: the server process is to serve it.
    pub(super) fn on_prepared(&mut self, id: u64, prepared: Result<Prepared, StartError>) {
        let Some(i) = self.instances.iter().position(|it| it.id == id) else { return };
        // A command has stopped the instance, or the supervisor stops.
        if !self.instances[i].is_starting() || self.stopping.is_some() {
            return;
        }
        let claimed = prepared.and_then(|prepared| self.take(i, prepared));
        if let Err(why) = claimed {
            return self.failed(i, &why.to_string(), why.exit_code());
        }
        let instance = &mut self.instances[i];
        match &mut self.current {
            Some(process) => {
                if let Err(error) = instance.serve(process, instance.id, &instance.line) {
                    self.failed(i, &cannot_pass_on(&error), PASS_ON);
                }
            }
            // The next process serves all instances that are prepared.
            None if self.next.is_some() || self.respawn.is_some() => {}
            None => self.spawn_process(),
        }
    }

    /// Gives an instance its listeners and files.
    fn take(&mut self, i: usize, prepared: Prepared) -> Result<(), StartError> {
        let Prepared { access, address, listeners } = prepared;
        let instance = &mut self.instances[i];
        let line = instance.line.clone();
        if instance.listeners.is_empty() {
            let address = listener::bind_address(address, line.name.port);
            instance.listeners = self.inherited_listeners.take(address);
            instance.is_inherited = !instance.listeners.is_empty();
            if instance.listeners.is_empty() {
                instance.listeners = self.inherited_listeners.take_stored(address);
            }
            if instance.listeners.is_empty() {
                instance.listeners = listeners;
                notify::store(&instance.stored_name(), &instance.listeners);
            }
            if instance.listeners.is_empty() {
                let source = Errno::EADDRINUSE.into();
                return Err(StartError::Listen { address: address.to_string(), source });
            }
        }
        instance.claim(&self.settings.dir, &line, access)?;
        Ok(())
    }

    /// Gives an instance that has listeners the files and rights of `line`, which need not be its
    /// line.
    pub(super) async fn claim(&mut self, i: usize, line: &Line) -> Result<(), StartError> {
        let args = line.args.clone();
        let access = spawn_blocking(move || SocketAccess::of(&args)).await;
        let access = access.map_err(|error| StartError::System {
            act: "look up a user or group",
            source: error.into(),
        })??;
        self.instances[i].claim(&self.settings.dir, line, access)?;
        Ok(())
    }
}
