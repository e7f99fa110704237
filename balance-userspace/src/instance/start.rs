//! Starts an instance from its parsed arguments and its listeners.
//!
//! Invariant: every step that can fail comes before the first accept.

use std::{io, net::IpAddr, sync::Arc};

use socket2::Socket;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    cli::{args::Args, operand},
    datapath::Datapath,
    error::{self, StartError},
    instance::{
        context::Context,
        settings::{self, Settings},
        shared::Shared,
        table::Table,
    },
    io::{
        connect::{self, Connector},
        listener,
        loops::{self, LoopDetector},
        resolve,
        stream::SocketOptions,
    },
    selection::{self, GroupConfig, Method, Selector},
};

/// The resolved servers of an instance.
pub(crate) struct Servers {
    pub(crate) port: u16,
    groups: Vec<GroupConfig>,
    source: Option<IpAddr>,
}

/// Resolves the servers of a command line. `bind` is the address of `-b`. Blocks.
///
/// # Errors
/// When a name does not resolve, or when a server is the listener itself.
pub(crate) fn resolve(args: &Args, bind: Option<IpAddr>) -> Result<Servers, StartError> {
    let port = operand::listen_port(&args.port, &resolve::service)?;
    let specs = operand::groups(&args.channels, port, &resolve::service)?;
    let groups = resolve::groups(&specs)?;
    loops::check_servers(Some(listener::bind_address(bind, port)), selection::addresses(&groups))?;
    Ok(Servers { port, groups, source: source_address(args)? })
}

impl Servers {
    /// The options of the listeners, which their clients' sockets inherit: `options`, and a segment
    /// size that fits the paths to the servers.
    pub(crate) fn client_options(
        &self,
        args: &Args,
        options: SocketOptions,
        datapath: &Datapath,
    ) -> SocketOptions {
        let addresses = selection::addresses(&self.groups).copied();
        options.with_mss(datapath.of_instance(args).mss_for_clients(addresses))
    }
}

/// Makes the state of an instance whose listeners listen. `accepted_options` are set on each
/// accepted socket, for listeners that may have had clients before they got these options.
pub(crate) fn start(
    args: &Args,
    servers: Servers,
    listeners: &[Socket],
    accepted_options: Option<SocketOptions>,
    shared: &Arc<Shared>,
) -> Arc<Context> {
    let Servers { groups, source, .. } = servers;
    let selector = Selector::new(groups, settings::policy(args));
    let datapath = shared.datapath.of_instance(args);
    let address = listener::local_address(&listeners[0]);
    let max_connections = args
        .max_connections
        .map_or(shared.max_connections, |wanted| wanted.get().min(shared.max_connections));
    let extra_attempts = Arc::clone(&shared.extra_attempts);
    Arc::new(Context {
        table: Table::new(selector),
        datapath,
        accepted_options,
        connector: Connector::new(
            shared.options,
            source,
            LoopDetector::new(address),
            extra_attempts,
        ),
        settings: watch::Sender::new(Settings::of(args)),
        active_args: Mutex::new(args.clone()),
        permits: Arc::new(Semaphore::new(max_connections)),
        max_connections,
        totals: Arc::default(),
        address,
        has_readers: args.control_group.is_some(),
        re_resolve: Notify::new(),
        stop: CancellationToken::new(),
        abort: shared.abort.child_token(),
        shared: Arc::clone(shared),
    })
}

/// Logs that an instance serves. `reason` is why its datapath was chosen.
pub(crate) fn log_ready(context: &Context, args: &Args, reason: &str) {
    if args.mmap {
        info!("-M has no effect: there is no shared memory to map");
    }
    info!(
        name = args.name, listener = %context.address.map_or_else(|| args.port.clone(), |a| a.to_string()),
        groups = describe_groups(context), datapath = %context.datapath.name(), reason, "ready"
    );
}

/// The address to listen on; `None` for all addresses.
pub(crate) fn listen_address(args: &Args) -> Result<Option<IpAddr>, StartError> {
    match &args.bind {
        Some(host) => resolve::listen_address(host, args.ipv6).map(Some),
        None if args.ipv6 && !listener::has_ipv6_address() => Err(StartError::Listen {
            address: format!("[::]:{}", error::one_line(&args.port)),
            source: io::Error::other("this host has no IPv6 address, and -6 asks for one"),
        }),
        None if args.ipv6 => Ok(Some(std::net::Ipv6Addr::UNSPECIFIED.into())),
        None => Ok(None),
    }
}

/// The address of `-B`, after a test bind without a port. A connection chooses a port that is free
/// towards its server, even if none is free towards all servers.
pub(crate) fn source_address(args: &Args) -> Result<Option<IpAddr>, StartError> {
    let Some(host) = &args.source else { return Ok(None) };
    let address = resolve::addresses(host, 0)?[0];
    let refused = |source| StartError::Source { address: address.ip(), source };
    let socket = Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
    socket.and_then(|socket| connect::bind_source(&socket, address.ip())).map_err(refused)?;
    Ok(Some(address.ip()))
}

/// The groups in the syntax of the command line.
fn describe_groups(context: &Context) -> String {
    let inner = context.table.lock();
    let groups = inner.selector.groups().iter().enumerate().map(|(number, group)| {
        let mut text = format!("{number}:");
        for channel in &group.channels {
            text += &format!(" {}", channel.addresses[0]);
            if channel.max > 0 {
                text += &format!(":{}", channel.max);
            }
        }
        if group.method == Method::Hash {
            text += " %";
        }
        text
    });
    groups.collect::<Vec<_>>().join(" ! ")
}
