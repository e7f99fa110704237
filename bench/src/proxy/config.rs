//! Configuration files for haproxy and nginx.
//!
//! Invariant: one listening address, no access log, and no limit that the load can reach. Buffer
//! sizes and other settings are the proxy's defaults.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use super::StartConfig;

/// Returns the configuration of haproxy, which detects a dead server by failed connects and by a
/// health check every second, and then uses the other server.
pub(super) fn haproxy(listen: SocketAddr, config: &StartConfig<'_>, splice: bool) -> String {
    let StartConfig { backends, workers, connections, .. } = config;
    let mut text = format!(
        "global\n    nbthread {workers}\n    maxconn {connections}\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    \
         timeout server 1h\n    retries 3\n    option redispatch 1\n"
    );
    if splice {
        text += "    option splice-request\n    option splice-response\n";
    }
    let _ = write!(
        text,
        "listen bench\n    bind {listen}\n    maxconn {connections}\n    balance roundrobin\n"
    );
    let check = if backends.len() > 1 { " check inter 1s" } else { "" };
    for (nth, backend) in backends.iter().enumerate() {
        let _ = writeln!(text, "    server s{nth} {backend}{check}");
    }
    text
}

/// Returns the configuration of nginx. Each worker has a listening socket of its own; with a shared
/// socket, one worker would accept most connections.
pub(super) fn nginx(listen: SocketAddr, config: &StartConfig<'_>, module: &Path) -> String {
    let StartConfig { backends, workers, connections, directory, .. } = config;
    let directory = directory.display();
    // Enough for both sockets of all connections if one worker accepts all of them.
    let sockets = 2 * connections + 100;
    let servers: String =
        backends.iter().map(|backend| format!("        server {backend};\n")).collect();
    format!(
        "load_module {};\ndaemon off;\nworker_processes {workers};\n\
         pid {directory}/nginx.pid;\nerror_log stderr warn;\n\
         events {{\n    worker_connections {sockets};\n}}\n\
         stream {{\n    access_log off;\n    upstream bench {{\n{servers}    }}\n    \
         server {{\n        listen {listen} reuseport backlog=4096;\n        proxy_pass bench;\n        \
         proxy_connect_timeout 5s;\n        proxy_timeout 1h;\n    }}\n}}\n",
        module.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    #[test]
    fn a_configuration_contains_all_backends() {
        let backends = [([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()];
        let listen = ([127, 0, 0, 1], 3).into();
        let config = StartConfig {
            host: &Network::loopback().middle,
            backends: &backends,
            directory: Path::new("/tmp"),
            workers: 2,
            connections: 10,
        };
        let haproxy = haproxy(listen, &config, true);
        assert!(haproxy.contains("server s1 127.0.0.1:2 check"), "{haproxy}");
        assert!(haproxy.contains("splice-response"), "{haproxy}");
        let nginx = nginx(listen, &config, Path::new("/m.so"));
        assert!(nginx.contains("server 127.0.0.1:2;"), "{nginx}");
        assert!(nginx.contains("listen 127.0.0.1:3 "), "{nginx}");
    }
}
