//! What the program says about itself: one JSON object a line.

use std::net::SocketAddr;

use serde_json::{Map, Value};

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Event {
    /// `INFO` and the like.
    pub level: String,
    /// What happened.
    pub message: String,
    fields: Map<String, Value>,
}

impl Event {
    /// The event of a line; `None` for a line that is not one.
    pub fn parse(line: &str) -> Option<Self> {
        let mut value: Value = serde_json::from_str(line).ok()?;
        let level = value.get("level")?.as_str()?.to_owned();
        let Value::Object(fields) = value.get_mut("fields")?.take() else {
            return None;
        };
        let message = fields.get("message")?.as_str()?.to_owned();
        Some(Self { level, message, fields })
    }

    /// A field as text.
    pub fn text(&self, key: &str) -> String {
        match self.fields.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => panic!("no field {key}: {self:?}"),
        }
    }

    /// A field that is a number.
    pub fn number(&self, key: &str) -> u64 {
        let text = self.text(key);
        text.parse().unwrap_or_else(|_| panic!("{key} is not a number: {self:?}"))
    }

    fn address(&self, key: &str) -> SocketAddr {
        let text = self.text(key);
        text.parse().unwrap_or_else(|_| panic!("{key} is not an address: {self:?}"))
    }
}

/// A connection that has ended.
#[derive(Clone, Debug)]
pub struct Session {
    /// The client's address.
    pub client: SocketAddr,
    /// The backend's address.
    pub backend: SocketAddr,
    /// What moved the bytes.
    pub datapath: String,
    /// Bytes from client to backend.
    pub sent: u64,
    /// Bytes from backend to client.
    pub rcvd: u64,
    /// Bytes of both directions that the kernel moved.
    pub offloaded: u64,
    /// How it ended: `clean`, `client reset` and so on.
    pub end: String,
}

impl Session {
    pub(super) fn of(event: &Event) -> Option<Self> {
        (event.message == "session").then(|| Self {
            client: event.address("client"),
            backend: event.address("server"),
            datapath: event.text("datapath"),
            sent: event.number("sent"),
            rcvd: event.number("rcvd"),
            offloaded: event.number("offloaded"),
            end: event.text("end"),
        })
    }
}

/// The life of a program that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSummary {
    /// Clients accepted.
    pub connections: u64,
    /// Clients for whom there was no backend.
    pub unserved: u64,
    /// Connections that did not end in an orderly way.
    pub broken: u64,
    /// Bytes from clients to backends.
    pub sent: u64,
    /// Bytes from backends to clients.
    pub rcvd: u64,
}

impl StopSummary {
    pub(super) fn of(event: &Event) -> Self {
        Self {
            connections: event.number("connections"),
            unserved: event.number("unserved"),
            broken: event.number("broken"),
            sent: event.number("sent"),
            rcvd: event.number("rcvd"),
        }
    }
}
