//! Tests of the text for each reply.

use proptest::prelude::*;

use super::*;
use crate::control::{
    client::command::{self, ParsedCommand},
    protocol::{ChannelRow, CounterRow, SessionRow, Stats},
};
use crate::selection::{ChannelId, Differences};

fn row(group: usize, channel: usize, address: &str) -> ChannelRow {
    ChannelRow {
        group,
        method: Method::RoundRobin,
        channel,
        name: "mx".to_owned(),
        enabled: true,
        address: address.parse().unwrap(),
        unresolved_since: None,
        current: 0,
        total: 0,
        max: 0,
        sent: 0,
        rcvd: 0,
    }
}

/// The text for a reply to a command in group 0, behind `!` for a failure.
fn rendered(typed: &str, reply: InstanceReply) -> String {
    let Ok(ParsedCommand::Request { format, .. }) = command::parse(typed, 0) else {
        panic!("{typed}")
    };
    let rendered = render(&format, &reply, Some("smtp")).unwrap();
    format!("{}{}", if rendered.failed { "!" } else { "" }, rendered.text)
}

#[test]
fn the_table_is_that_of_the_classic() {
    let rows = vec![
        ChannelRow { total: 2, rcvd: 30, ..row(0, 0, "127.0.1.1:2500") },
        ChannelRow { max: 9999, ..row(0, 3, "192.0.2.100:65535") },
        ChannelRow { method: Method::Hash, enabled: false, max: 1, ..row(1, 0, "127.0.1.4:2500") },
    ];
    let expected = "\
GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd
  0   RR  0 ENA        127.0.1.1  2500    0           2    0           0          30
  0   RR  3 ENA      192.0.2.100 65535    0           0 9999           0           0
  1 Hash  0 dis        127.0.1.4  2500    0           0    1           0           0
";
    assert_eq!(rendered("show", InstanceReply::Table(rows)), expected);
}

#[test]
fn larger_values_widen_the_row() {
    let rows = vec![ChannelRow {
        current: 12345,
        total: u64::MAX,
        max: u32::MAX,
        sent: u64::MAX,
        rcvd: u64::MAX,
        ..row(1000, 1000, "[2001:db8::1234:5678]:25")
    }];
    let text = rendered("show", InstanceReply::Table(rows));
    let expected = "1000   RR 1000 ENA 2001:db8::1234:5678    25 12345 18446744073709551615 \
                    4294967295 18446744073709551615 18446744073709551615";
    assert_eq!(text.lines().nth(1), Some(expected));
}

#[test]
fn the_table_as_json_has_a_version_and_all_columns() {
    let text = rendered("show --json", InstanceReply::Table(vec![row(2, 1, "[::1]:25")]));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!({"version": 1, "name": "smtp", "channels": [{
        "group": 2, "channel": 1, "name": "mx", "method": "round_robin", "enabled": true, "address": "::1",
        "port": 25, "unresolved_since": null, "current": 0, "total": 0, "max": 0, "sent": 0, "rcvd": 0,
    }]});
    assert_eq!(json, expected);
    assert!(text.starts_with("{\n  \"version\": 1,\n") && text.ends_with("}\n"), "{text}");
}

#[test]
fn connections_are_printed_in_columns() {
    let one = SessionRow {
        client: "192.0.2.7:50000".parse().unwrap(),
        id: Some(ChannelId { group: 0, channel: 12 }),
        server: Some("mx".to_owned()),
        source: Some("127.0.0.1:1234".parse().unwrap()),
        backend: Some("127.0.0.1:25".parse().unwrap()),
        age_ms: 3_723_000,
        sent: 1234,
        rcvd: 5,
        datapath: Some("sockmap".to_owned()),
    };
    let connecting = SessionRow {
        client: "[::1]:1".parse().unwrap(),
        source: None,
        backend: None,
        age_ms: 1_250,
        datapath: None,
        ..one.clone()
    };
    let gone = SessionRow { id: None, age_ms: 60_000, ..one.clone() };
    let expected = "\
client           channel  source          backend         age  sent  rcvd  datapath
192.0.2.7:50000     0.12  127.0.0.1:1234  127.0.0.1:25  1h02m  1234     5  sockmap
[::1]:1             0.12  -               -              1.2s  1234     5  -
192.0.2.7:50000        -  127.0.0.1:1234  127.0.0.1:25  1m00s  1234     5  sockmap
";
    assert_eq!(
        rendered("sessions", InstanceReply::Sessions(vec![one, connecting, gone])),
        expected
    );
}

#[test]
fn servers_are_printed_with_their_names() {
    let rows = vec![
        ChannelRow { total: 2, rcvd: 30, ..row(0, 0, "127.0.1.1:2500") },
        ChannelRow { name: "b".into(), current: 3, max: 3, ..row(0, 1, "[::1]:25") },
        ChannelRow { name: "\u{1b}".into(), enabled: false, ..row(1, 0, "127.0.0.1:1") },
    ];
    let expected = "\
name    channel  address         state     connections  total  max  sent  rcvd
mx          0.0  127.0.1.1:2500  enabled             0      2    -     0    30
b           0.1  [::1]:25        full                3      0    3     0     0
\\u{1b}      1.0  127.0.0.1:1     disabled            0      0    -     0     0
";
    assert_eq!(rendered("servers", InstanceReply::Table(rows.clone())), expected);
    let text = rendered("servers --json", InstanceReply::Table(rows));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["version"], &json["name"]), (&1.into(), &"smtp".into()));
    let expected = serde_json::json!({
        "name": "b", "group": 0, "channel": 1, "address": "[::1]:25", "state": "full",
        "connections": 3, "total": 0, "max": 3, "sent": 0, "rcvd": 0,
    });
    assert_eq!(json["servers"][1], expected);
    assert_eq!(json["servers"][0]["max"], serde_json::Value::Null);
}

#[test]
fn every_outcome_has_the_line_of_the_classic() {
    use InstanceReply::{
        Already, Created, Done, InvalidAddress, NoSuchChannel, NoSuchGroup, NotDisabled,
    };
    let created = Created(ChannelId { group: 0, channel: 7 });
    let invalid = || InvalidAddress("why".to_owned());
    for (typed, reply, line) in [
        ("disable 1", Done, "channel 1 disabled"),
        ("disable 1", Already, "channel 1 already disabled"),
        ("disable 5", NoSuchChannel, "!no such channel 5"),
        ("disable 7.5", NoSuchGroup, "!no such channel 7.5"),
        ("disable 2.1", Done, "channel 2.1 disabled"),
        ("enable 1", Done, "channel 1 enabled"),
        ("enable 1", Already, "channel 1 already enabled"),
        ("enable 1", NoSuchGroup, "!no such channel 1"),
        ("reset 0", Done, "channel 0 counters reset"),
        ("reset 9", NoSuchChannel, "!no such channel 9"),
        ("create h 1", created, "channel created"),
        ("create h 1", invalid(), "!invalid address"),
        ("create h 1", NoSuchGroup, "!no channel slots available"),
        ("assign 0 h 1", Done, "channel reassigned"),
        ("assign 0 h 1", NoSuchChannel, "!unknown channel"),
        ("assign 0 h 1", NotDisabled, "!channel must be disabled to assign new address"),
        ("assign 0 h 1", invalid(), "!invalid address"),
        ("maxc 1 16", Done, "maxc of channel 1 changed to 16"),
        ("maxc 5 1", NoSuchChannel, "!unknown channel"),
        ("hash", Done, "group 0 set to hash"),
        ("rr", Already, "group 0 set to round robin"),
        ("mrtg-bytes 33 0", NoSuchGroup, "!unknown group"),
        ("mrtg-conns 0 6", NoSuchChannel, "!unknown channel"),
        ("drain 1", InstanceReply::Connections(0), "channel 1 drained"),
        ("drain 1", InstanceReply::Connections(1), "!channel 1 disabled, 1 connection left"),
        ("drain 0.1", InstanceReply::Connections(3), "!channel 0.1 disabled, 3 connections left"),
        ("drain 9", NoSuchChannel, "!no such channel 9"),
        ("drop 1", InstanceReply::Connections(0), "channel 1 dropped 0 connections"),
        ("drop 1", InstanceReply::Connections(1), "channel 1 dropped 1 connection"),
        ("drain 0", InstanceReply::TooManyDrains, "!too many drains are waiting, try later"),
        ("show", InstanceReply::Refused("why".to_owned()), "!why"),
    ] {
        assert_eq!(rendered(typed, reply), format!("{line}\n"), "{typed}");
    }
}

#[test]
fn graphs_get_four_lines() {
    let row = ChannelRow { total: 7, sent: 5, rcvd: 6, ..row(1, 2, "127.0.0.1:25") };
    let reply = || InstanceReply::Channel(row.clone());
    assert_eq!(rendered("mrtg-bytes 1 2", reply()), "6\n5\nUNKNOWN\ngroup 1 channel 2\n");
    assert_eq!(rendered("mrtg-conns 1.2", reply()), "7\nUNKNOWN\nUNKNOWN\ngroup 1 channel 2\n");
}

#[test]
fn a_reply_to_another_command_is_not_rendered() {
    assert_eq!(render(&ReplyFormat::Table, &InstanceReply::Done, None), None);
    assert_eq!(render(&ReplyFormat::Create, &InstanceReply::Connections(0), None), None);
    assert_eq!(render(&ReplyFormat::Assign, &InstanceReply::Table(Vec::new()), None), None);
}

proptest! {
    #[test]
    fn a_row_has_eleven_fields_and_at_least_the_widths_of_the_header(
        numbers in (0..100_usize, 0..100_usize, any::<u32>(), any::<u64>(), any::<u32>(), any::<u64>()),
        address in any::<std::net::SocketAddr>(),
    ) {
        let (group, channel, current, total, max, sent) = numbers;
        let row = ChannelRow {
            address, current, total, max, sent, ..row(group, channel, "0.0.0.0:0")
        };
        let text = rendered("show", InstanceReply::Table(vec![row]));
        let lines: Vec<&str> = text.lines().collect();
        prop_assert_eq!(lines.len(), 2);
        prop_assert_eq!(lines[1].split_whitespace().count(), 11);
        prop_assert!(lines[1].len() >= lines[0].len());
    }
}

#[test]
fn no_reply_prints_a_control_character() {
    let nasty = "\u{1b}[2J\n".to_owned();
    let stats = Stats {
        limit: 100,
        process: None,
        name: Some(nasty.clone()),
        datapath: nasty.clone(),
        address: None,
        open: 0,
        accepted: 0,
        clean: 0,
        broken: 0,
        unserved: 0,
        left: 0,
        log_lines_lost: 0,
        counters: vec![CounterRow { name: nasty.clone(), value: 1, reason: Some(nasty.clone()) }],
        differences: Differences::default(),
    };
    for (format, reply, lines) in [
        (ReplyFormat::Create, InstanceReply::Refused(nasty), 1),
        (ReplyFormat::Stats, InstanceReply::Stats(stats), 9),
    ] {
        let text = render(&format, &reply, Some("\u{1b}")).unwrap().text;
        assert_eq!(text.lines().count(), lines, "{text:?}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
