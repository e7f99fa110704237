//! Carries out the requests of a supervisor for one instance.
//!
//! Invariant: a request that fails leaves the other instances, and the instance itself, as they
//! were.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::Arc,
};

use socket2::Socket;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    instances::Instances,
    protocol::{Configured, Event},
    start::no_worker,
};
use crate::{
    cli::{self, args::Args},
    control::{instance_files::ControlEndpoint, protocol::InstanceReply, server::configure},
    error::{StartError, one_line},
    instance::{self, context::Context, start::Servers},
    io::listener,
};

/// An instance whose servers are resolved, with its listeners and its control socket.
pub(super) struct Prepared {
    args: Args,
    servers: Servers,
    listeners: Vec<Socket>,
    control: UnixListener,
    may_have_clients: bool,
}

/// Resolves the servers of an instance. `fds` are its listeners and, at the end, its control
/// socket.
pub(super) async fn prepare(
    words: Vec<String>,
    mut fds: Vec<OwnedFd>,
    may_have_clients: bool,
    look_ups: Arc<Semaphore>,
) -> Result<Prepared, StartError> {
    let control = fds.pop().expect("the descriptors end with the control socket").into();
    let listeners: Vec<Socket> = fds.into_iter().map(Into::into).collect();
    let args = cli::parse_instance(words)?;
    // The name of the address may resolve to another address by now.
    let bind = listener::local_address(&listeners[0]).map(|address| address.ip());
    let permit = look_ups.acquire().await;
    let resolved = spawn_blocking(move || {
        let servers = instance::start::resolve(&args, bind)?;
        Ok::<_, StartError>((args, servers))
    });
    let resolved = resolved.await;
    drop(permit);
    let (args, servers) = resolved.map_err(|error| StartError::System {
        act: "resolve the names of servers",
        source: error.into(),
    })??;
    Ok(Prepared { args, servers, listeners, control, may_have_clients })
}

/// Serves a prepared instance.
pub(super) async fn serve(
    instances: &mut Instances,
    id: u64,
    prepared: Result<Prepared, StartError>,
) -> Event {
    let served = async {
        let Prepared { args, servers, listeners, control, may_have_clients } = prepared?;
        let shared = Arc::clone(&instances.shared);
        let for_clients = servers.client_options(&args, shared.options, &shared.datapath);
        listener::listen(&listeners, for_clients)?;
        let options = may_have_clients.then_some(for_clients);
        let context = instance::start::start(&args, servers, &listeners, options, &shared);
        let endpoint = Some(ControlEndpoint::supervised(control));
        let served = instances.serve(id, listeners, Arc::clone(&context), endpoint).await;
        served.map_err(no_worker)?;
        instance::start::log_ready(&context, &args, "datapath of the server process");
        Ok::<_, StartError>(())
    };
    match served.await {
        Ok(()) => Event::Served { id },
        Err(error) => {
            let (reason, exit_code) = (one_line(&error.to_string()), error.exit_code());
            Event::Failed { id, reason, exit_code }
        }
    }
}

/// Gives an instance other arguments.
pub(super) async fn configure(context: &Arc<Context>, words: Vec<String>) -> Configured {
    match configure::configure(context, words).await {
        InstanceReply::InvalidAddress(reason) => Configured::Unresolved(reason),
        InstanceReply::Incompatible(_) => Configured::Incompatible,
        _ => Configured::Done,
    }
}
