//! Tables: channels in the form of the classic, servers with their names, connections, totals.
//!
//! Pure. Invariant: the columns of the channel table have the widths of the classic; a wider value
//! widens its row only.

use std::fmt::Write as _;

use crate::control::protocol::{ChannelRow, SessionRow, Stats};
use crate::{error::one_line, selection::Method};

const HEADER: &str =
    "GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd\n";

/// The output of `show`.
pub(super) fn channels(rows: &[ChannelRow]) -> String {
    rows.iter().fold(HEADER.to_owned(), |mut text, row| {
        let method = match row.method {
            Method::RoundRobin => "RR",
            Method::Hash => "Hash",
        };
        let state = if row.enabled { "ENA" } else { "dis" };
        let ChannelRow { group, channel, current, total, max, sent, rcvd, .. } = row;
        let (ip, port) = (row.address.ip().to_string(), row.address.port());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{group:>3} {method:>4} {channel:>2} {state:>3} {ip:>16} {port:>5} {current:>4} \
             {total:>11} {max:>4} {sent:>11} {rcvd:>11}"
        );
        text
    })
}

/// The output of `servers`.
pub(super) fn servers(rows: &[ChannelRow]) -> String {
    let header =
        ["name", "channel", "address", "state", "connections", "total", "max", "sent", "rcvd"];
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            one_line(&row.name),
            format!("{}.{}", row.group, row.channel),
            row.address.to_string(),
            state(row).to_owned(),
            row.current.to_string(),
            row.total.to_string(),
            if row.max == 0 { "-".to_owned() } else { row.max.to_string() },
            row.sent.to_string(),
            row.rcvd.to_string(),
        ]
    }));
    columns(&lines, [false, true, false, false, true, true, true, true, true])
}

/// Whether a server takes new connections.
pub(super) fn state(row: &ChannelRow) -> &'static str {
    match row.enabled {
        false => "disabled",
        true if row.max > 0 && row.current >= row.max => "full",
        true => "enabled",
    }
}

/// The output of `sessions`.
pub(super) fn sessions(rows: &[SessionRow]) -> String {
    let none = || "-".to_owned();
    let mut lines = vec![
        ["client", "channel", "source", "backend", "age", "sent", "rcvd", "datapath"]
            .map(str::to_owned),
    ];
    lines.extend(rows.iter().map(|row| {
        [
            row.client.to_string(),
            row.id.map_or_else(none, |id| format!("{}.{}", id.group, id.channel)),
            row.source.map_or_else(none, |source| source.to_string()),
            row.backend.map_or_else(none, |backend| backend.to_string()),
            age(row.age_ms),
            row.sent.to_string(),
            row.rcvd.to_string(),
            row.datapath.as_deref().map_or_else(none, one_line),
        ]
    }));
    columns(&lines, [false, true, false, false, true, true, true, false])
}

/// Formats cells in columns that are as wide as their widest cell. `right` marks right-aligned
/// columns.
pub(crate) fn columns<const N: usize>(lines: &[[String; N]], right: [bool; N]) -> String {
    let width = |i: usize| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0);
    lines.iter().fold(String::new(), |mut text, line| {
        let mut row = String::new();
        for (i, cell) in line.iter().enumerate() {
            let width = width(i);
            // Writing to a String cannot fail.
            let _ = match right[i] {
                true => write!(row, "{cell:>width$}  "),
                false => write!(row, "{cell:<width$}  "),
            };
        }
        text += row.trim_end();
        text.push('\n');
        text
    })
}

/// The output of `stats`: a name and a number on each line.
pub(super) fn stats(stats: &Stats) -> String {
    let number = |name: &str, number: u64| (name.to_owned(), number.to_string());
    let mut lines = vec![
        ("datapath".to_owned(), one_line(&stats.datapath)),
        number("accepted", stats.accepted),
        number("open", stats.open),
        number("ended in order", stats.clean),
        number("broken", stats.broken),
        number("unserved", stats.unserved),
        number("left before served", stats.left),
        number("log lines lost", stats.log_lines_lost),
    ];
    lines.extend(stats.counters.iter().map(|counter| {
        let value = match &counter.reason {
            Some(reason) => format!("{} ({})", counter.value, one_line(reason)),
            None => counter.value.to_string(),
        };
        (one_line(&counter.name), value)
    }));
    lines.iter().fold(String::new(), |text, (name, value)| text + &format!("{name:<24}{value}\n"))
}

/// Formats a time in its two largest units.
fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}.{}s", ms % 1000 / 100),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}
