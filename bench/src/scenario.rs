//! The scenarios and their cases, in the order of measurement.
//!
//! Invariant: the memory scenarios come first. Short connections leave sockets in TIME_WAIT, which
//! use memory for a minute.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::messages::{Direction, Load, Service};

/// The scenarios with their descriptions.
const SCENARIOS: [(&str, &str); 8] = [
    ("idle", "memory of an idle connection, in the proxy and in the kernel"),
    ("stall", "memory of a connection with a stalled receiver, 50 of them"),
    ("rr", "requests and responses on open connections: 64 B and 4 KiB on 1, 64 and 1000"),
    ("bulk", "endless streams: 1 and 8; up, down and both ways"),
    ("netns", "requests and a stream between network namespaces; direct is plain forwarding"),
    ("conn", "short connections with one request each, 64 at a time"),
    ("mail", "SMTP sessions with one message of 10 KiB each, 64 at a time"),
    ("churn", "one of two backends fails under load and returns"),
];

/// The usual number of concurrent connections.
const CONNECTIONS: usize = 64;
const REQUEST: usize = 64;
/// The id of the server in cases with one server.
const SERVER_ID: u8 = 1;

/// One thing to measure.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The scenario of the case.
    pub(crate) scenario: &'static str,
    /// The id of the case.
    pub(crate) id: String,
    /// The title for tables and charts.
    pub(crate) title: String,
    /// The load of the client.
    pub(crate) load: Load,
    /// What the server does.
    pub(crate) service: Service,
    /// How the case is measured.
    pub(crate) method: Method,
    /// Whether client, proxy and server are in network namespaces instead of on loopback.
    pub(crate) uses_namespaces: bool,
}

/// How a case is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Counts operations within a time; the text is the name of an operation.
    Operations(&'static str),
    /// Counts bytes within a time.
    Throughput,
    /// Reads the memory in use while connections are held; the unit and its bytes.
    Memory(&'static str, i64),
    /// Measures the effect of a failing backend on clients.
    Churn,
}

/// Returns the part of `--help` about scenarios.
pub(crate) fn help() -> String {
    let mut text = String::from("Scenarios, and their cases:\n");
    for (name, description) in SCENARIOS {
        let ids: Vec<_> = cases(name, 0).into_iter().map(|case| case.id).collect();
        text += &format!("  {name:<6} {description}\n");
        if ids.len() > 1 {
            text += &format!("         ({})\n", ids.join(", "));
        }
    }
    text
}

/// Returns the cases with these names, or all cases if no name is given.
pub(crate) fn select(names: &[String], idle_connections: usize) -> Result<Vec<Case>> {
    let all: Vec<Case> =
        SCENARIOS.iter().flat_map(|(name, _)| cases(name, idle_connections)).collect();
    for name in names {
        let known = all.iter().any(|case| case.is_named(name));
        ensure!(known, "unknown scenario {name}, see --help");
    }
    let is_selected =
        |case: &Case| names.is_empty() || names.iter().any(|name| case.is_named(name));
    Ok(all.into_iter().filter(is_selected).collect())
}

impl Case {
    fn is_named(&self, name: &str) -> bool {
        self.scenario == name || self.id == name
    }

    /// Returns the number of concurrent connections.
    pub(crate) fn connections(&self) -> usize {
        match self.load {
            Load::Requests { connections, .. }
            | Load::Short { connections, .. }
            | Load::Churn { connections, .. }
            | Load::Mail { connections, .. }
            | Load::Hold { connections, .. } => connections,
            Load::Bulk { streams, .. } => streams,
            Load::Stall { receivers } => receivers,
        }
    }
}

fn cases(scenario: &'static str, idle_connections: usize) -> Vec<Case> {
    let case = |id: String, title: String, load, service, method| Case {
        scenario,
        id,
        title,
        load,
        service,
        method,
        uses_namespaces: false,
    };
    let single = |title: String, load, service, method| {
        vec![case(scenario.to_owned(), title, load, service, method)]
    };
    let requests = |size, connections| {
        case(
            format!("rr-{size}-{connections}"),
            format!("requests of {size} B on {}", plural(connections, "connection")),
            Load::Requests { connections, size },
            Service::Echo { size },
            Method::Operations("request"),
        )
    };
    let bulk = |streams, direction| {
        let (id, title) = match direction {
            Direction::Up => ("up", "up"),
            Direction::Down => ("down", "down"),
            Direction::Both => ("both", "both ways"),
        };
        case(
            format!("bulk-{streams}-{id}"),
            format!("{} {title}", plural(streams, "stream")),
            Load::Bulk { streams, direction },
            Service::Bulk(direction),
            Method::Throughput,
        )
    };
    match scenario {
        "idle" => single(
            format!("{idle_connections} idle connections, memory of each"),
            Load::Hold { connections: idle_connections, size: REQUEST },
            Service::Echo { size: REQUEST },
            Method::Memory("KiB", 1024),
        ),
        "stall" => single(
            "50 stalled receivers, memory of each".into(),
            Load::Stall { receivers: 50 },
            Service::Bulk(Direction::Down),
            Method::Memory("MiB", 1024 * 1024),
        ),
        "rr" => {
            let all = [64, 4096].into_iter().flat_map(|size| [1, 64, 1000].map(|n| (size, n)));
            all.map(|(size, connections)| requests(size, connections)).collect()
        }
        "bulk" => {
            let all = [1, 8].into_iter().flat_map(|n| {
                [Direction::Up, Direction::Down, Direction::Both].map(|direction| (n, direction))
            });
            all.map(|(streams, direction)| bulk(streams, direction)).collect()
        }
        "netns" => [requests(REQUEST, CONNECTIONS), bulk(1, Direction::Up)]
            .map(|case| Case {
                id: format!("{scenario}-{}", case.id),
                title: format!("{} between namespaces", case.title),
                uses_namespaces: true,
                ..case
            })
            .into(),
        "conn" => single(
            format!("connections with one request of {REQUEST} B each, {CONNECTIONS} at a time"),
            Load::Short { connections: CONNECTIONS, size: REQUEST },
            Service::Answer { size: REQUEST, id: SERVER_ID },
            Method::Operations("connect"),
        ),
        "mail" => single(
            format!("SMTP sessions with one message of 10 KiB each, {CONNECTIONS} at a time"),
            Load::Mail { connections: CONNECTIONS, message: 10 * 1024 },
            Service::Mail,
            Method::Operations("message"),
        ),
        _ => single(
            "one of two backends fails and returns, 32 clients with a request every 10 ms".into(),
            Load::Churn { connections: 32, size: REQUEST, pause: Duration::from_millis(10) },
            Service::Answer { size: REQUEST, id: SERVER_ID },
            Method::Churn,
        ),
    }
}

fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Ok(select(&names, 4000)?.into_iter().map(|case| case.id).collect())
    }

    #[test]
    fn the_id_of_a_case_begins_with_its_scenario() {
        for (name, _) in SCENARIOS {
            for case in cases(name, 10) {
                assert!(case.id == name || case.id.starts_with(&format!("{name}-")), "{case:?}");
                assert_eq!(case.scenario, name);
            }
        }
        assert_eq!(ids(&[]).unwrap().len(), 19);
    }

    #[test]
    fn only_the_netns_cases_use_namespaces() {
        let uses_namespaces: Vec<_> = select(&[], 9)
            .unwrap()
            .into_iter()
            .filter(|case| case.uses_namespaces)
            .map(|c| c.id)
            .collect();
        assert_eq!(uses_namespaces, ["netns-rr-64-64", "netns-bulk-1-up"]);
    }

    #[test]
    fn scenarios_and_cases_can_be_selected() {
        assert_eq!(
            ids(&["rr-64-1", "bulk-8-up", "churn"]).unwrap(),
            ["rr-64-1", "bulk-8-up", "churn"]
        );
        assert_eq!(ids(&["bulk"]).unwrap().len(), 6);
        assert!(ids(&["speed"]).unwrap_err().to_string().contains("speed"));
    }
}
