//! Tests of each rule.

use super::*;

pub(in crate::service::health) fn server(name: &str, unusable: Option<Unusable>) -> Server {
    Server { name: name.to_owned(), group: 0, channel: 0, unusable, connections: 0, max: 0 }
}

pub(in crate::service::health) fn running(
    name: &str,
    load: (u64, u64),
    servers: Vec<Server>,
) -> Listener {
    let load = Load { open: load.0, limit: load.1 };
    let figures = Figures { servers, load, ..Figures::default() };
    Listener { name: name.to_owned(), state: ListenerState::Running, figures: Some(figures) }
}

fn silent(name: &str, state: ListenerState) -> Listener {
    Listener { name: name.to_owned(), state, figures: None }
}

pub(in crate::service::health) fn seen(listeners: Vec<Listener>) -> Observation {
    Observation { supervisor: SupervisorState::Running, mistakes: Vec::new(), listeners }
}

/// The status, and the texts of the reasons.
fn judged(seen: &Observation) -> (Status, Vec<String>) {
    let reasons = reasons(seen);
    (status(&reasons), reasons.into_iter().map(|reason| reason.text).collect())
}

fn one(listener: Listener) -> (Status, Vec<String>) {
    judged(&seen(vec![listener]))
}

fn because(status: Status, why: &str) -> (Status, Vec<String>) {
    (status, vec![why.to_owned()])
}

const DISABLED: Option<Unusable> = Some(Unusable::Disabled);
const FULL: Option<Unusable> = Some(Unusable::Full);

#[test]
fn usable_servers_and_few_connections_are_ok() {
    let listener = running("smtp", (89, 100), vec![server("a", None), server("b", None)]);
    assert_eq!(one(listener), (Status::Ok, Vec::new()));
    assert_eq!(judged(&seen(Vec::new())), (Status::Ok, Vec::new()));
    let alone = running("25", (0, 1), vec![server("a", None)]);
    let seen = Observation { supervisor: SupervisorState::Absent, ..seen(vec![alone]) };
    assert_eq!(judged(&seen), (Status::Ok, Vec::new()));
}

#[test]
fn a_server_that_cannot_be_used_is_a_warning_and_no_usable_server_is_critical() {
    let two = |a, b| one(running("smtp", (0, 0), vec![server("a", a), server("b", b)]));
    let some = "smtp: 1 of 2 servers usable (b disabled)";
    assert_eq!(two(None, DISABLED), because(Status::Warning, some));
    let some = "smtp: 1 of 2 servers usable (a full)";
    assert_eq!(two(FULL, None), because(Status::Warning, some));
    let none = "smtp: no usable server (a disabled, b full)";
    assert_eq!(two(DISABLED, FULL), because(Status::Critical, none));
    let listener = running("smtp", (0, 0), Vec::new());
    assert_eq!(one(listener), because(Status::Critical, "smtp: no server"));
}

#[test]
fn a_limit_is_near_from_90_percent() {
    let near = |open, limit| one(running("smtp", (open, limit), vec![server("a", None)])).0;
    for (limit, from) in [(1, 1), (2, 2), (10, 9), (11, 10), (100, 90), (1000, 900)] {
        assert_eq!(near(from, limit), Status::Warning, "{limit}");
        assert_eq!(near(limit, limit), Status::Warning, "{limit}");
        assert_eq!(near(from - 1, limit), Status::Ok, "{limit}");
    }
    assert_eq!(near(u64::MAX, 0), Status::Ok);
    let listener = running("smtp", (90, 100), vec![server("a", None)]);
    assert_eq!(one(listener), because(Status::Warning, "smtp: 90 of 100 connections"));
}

#[test]
fn the_limit_of_a_process_is_told_once() {
    let of_process = |name: &str, load, process| {
        let mut listener = running(name, load, vec![server("a", None)]);
        let (open, limit) = process;
        listener.figures.as_mut().unwrap().process = Some((7, Load { open, limit }));
        listener
    };
    let [a, b] = ["a", "b"].map(|name| of_process(name, (45, 100), (90, 100)));
    let why = "process 7: 90 of 100 connections";
    assert_eq!(judged(&seen(vec![a, b])), because(Status::Warning, why));
    // The limit of the listener is that of its process.
    let alone = of_process("a", (90, 100), (90, 100));
    assert_eq!(one(alone), because(Status::Warning, "a: 90 of 100 connections"));
}

#[test]
fn a_listener_that_is_not_served_is_critical() {
    for state in ["failed", "starting", "stopped", "unanswered"] {
        let state = ListenerState::NotServed(state, "why".to_owned());
        let listener = silent("smtp", state);
        assert_eq!(one(listener), because(Status::Critical, "smtp: why"));
    }
    let seen = Observation { mistakes: vec!["f:1: why".to_owned()], ..seen(Vec::new()) };
    assert_eq!(judged(&seen), because(Status::Critical, "f:1: why"));
}

#[test]
fn the_supervisor_must_answer_and_run() {
    let with = |supervisor| judged(&Observation { supervisor, ..seen(Vec::new()) });
    let why = || "why".to_owned();
    assert_eq!(with(SupervisorState::Running), (Status::Ok, Vec::new()));
    let nothing = because(Status::Unknown, "no supervisor and no instance found");
    assert_eq!(with(SupervisorState::Absent), nothing);
    let stopping = because(Status::Critical, "supervisor: stopping");
    assert_eq!(with(SupervisorState::Stopping), stopping);
    let silent = because(Status::Critical, "supervisor: why");
    assert_eq!(with(SupervisorState::Unanswered(why())), silent);
    assert_eq!(with(SupervisorState::Unreadable(why())), because(Status::Unknown, "why"));
}

#[test]
fn the_worst_reason_decides_and_comes_first() {
    let listeners = vec![
        silent("a", ListenerState::Unreadable("permission denied".to_owned())),
        running("b", (0, 0), vec![server("x", None), server("y", DISABLED)]),
        silent("c", ListenerState::NotServed("failed", "why".to_owned())),
        running("d", (9, 10), vec![server("x", DISABLED)]),
    ];
    let (status, texts) = judged(&seen(listeners));
    assert_eq!(status, Status::Critical);
    let expected = [
        "c: why",
        "d: no usable server (x disabled)",
        "b: 1 of 2 servers usable (y disabled)",
        "d: 9 of 10 connections",
        "a: permission denied",
    ];
    assert_eq!(texts, expected);
    let unknown = ListenerState::Unreadable("permission denied".to_owned());
    assert_eq!(one(silent("a", unknown)).0, Status::Unknown);
}
