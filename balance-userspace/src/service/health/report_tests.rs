//! Tests of the line and of JSON.

use serde_json::json;

use super::{
    super::verdict::{
        SupervisorState,
        tests::{running, seen, server},
    },
    *,
};

const DISABLED: Option<Unusable> = Some(Unusable::Disabled);

fn reported(seen: &Observation) -> String {
    line(seen, &verdict::reasons(seen))
}

#[test]
fn the_line_has_status_reasons_and_performance_data() {
    let both = || vec![server("mx1", None), server("mx2", None)];
    let listeners = vec![running("smtp", (12, 100), both()), running("[::1]:143", (3, 0), both())];
    let expected = "BALANCE OK - 2 listeners, 4 of 4 servers usable | connections=15;;;0 \
        'smtp connections'=12;89;100;0;100 'smtp servers'=2;2:;1:;0;2 \
        '[::1]:143 connections'=3;;;0 '[::1]:143 servers'=2;2:;1:;0;2";
    assert_eq!(reported(&seen(listeners)), expected);

    let down = vec![server("mx1", DISABLED), server("mx2", DISABLED)];
    let expected = "BALANCE CRITICAL - smtp: no usable server (mx1 disabled, mx2 disabled); \
        1 listener, 0 of 2 servers usable | connections=0;;;0 'smtp connections'=0;;;0 \
        'smtp servers'=0;2:;1:;0;2";
    assert_eq!(reported(&seen(vec![running("smtp", (0, 0), down)])), expected);

    assert_eq!(reported(&seen(Vec::new())), "BALANCE OK - no listeners");
    let nothing = Observation { supervisor: SupervisorState::Absent, ..seen(Vec::new()) };
    let expected = "BALANCE UNKNOWN - no supervisor and no instance found";
    assert_eq!(reported(&nothing), expected);
    assert_eq!(unknown_line("a|b\n"), "BALANCE UNKNOWN - a/b\\n");
}

#[test]
fn no_text_breaks_the_line() {
    let name = "a|b='c'\n";
    let mut seen = seen(vec![running(name, (0, 0), vec![server(name, DISABLED)])]);
    seen.mistakes = (0..20).map(|n| format!("f:{n}: a | b\n")).collect();
    let line = reported(&seen);
    assert_eq!((line.matches('|').count(), line.lines().count()), (1, 1), "{line}");
    assert!(line.contains("f:9: a / b\\n; 11 more; 1 listener, "), "{line}");
    assert!(line.contains("'a/b__c_\\n connections'=0"), "{line}");
}

#[test]
fn json_has_all_of_it() {
    let servers = vec![server("mx1", None), server("mx2", DISABLED)];
    let seen = seen(vec![running("smtp", (12, 100), servers)]);
    let text = json(&seen, &verdict::reasons(&seen));
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    let why = "smtp: 1 of 2 servers usable (mx2 disabled)";
    let server = |name: &str, usable: bool, reason: Option<&str>| {
        json!({"name": name, "group": 0, "channel": 0, "usable": usable, "reason": reason,
               "connections": 0, "max": null})
    };
    let expected = json!({
        "version": 1, "status": "warning", "reasons": [why],
        "listeners": [{
            "name": "smtp", "state": "running", "reasons": [why], "address": null, "pid": null,
            "connections": 12, "max_connections": 100,
            "servers": [server("mx1", true, None), server("mx2", false, Some("disabled"))],
        }],
    });
    assert_eq!(found, expected);
    let found: serde_json::Value = serde_json::from_str(&unknown_json("why")).unwrap();
    let expected = json!({"version": 1, "status": "unknown", "reasons": ["why"], "listeners": []});
    assert_eq!(found, expected);
}

#[test]
fn exit_codes_are_those_of_monitoring_plugins() {
    let codes = [Status::Ok, Status::Warning, Status::Critical, Status::Unknown];
    assert_eq!(codes.map(Status::exit_code), [0, 1, 2, 3]);
}
