//! What `help` and `version` print; man pages and completions take the commands from here too.
//!
//! Invariant: every command stands here once, in two leading blanks and with its description from
//! column 34 on, the classic's first; what a command does to standing connections is said.

/// Commands of the classic, then those that it did not have; lines of the description.
pub const COMMANDS: [(&str, &[&str]); 21] = [
    ("create <host> <port>", &["add a channel to the current group, disabled"]),
    ("assign <channel> <host> <port>", &["give a disabled channel another address", STAY]),
    ("disable <channel>", &["take no new connections", GO_ON]),
    ("enable <channel>", &["take new connections", GO_ON]),
    ("group <group>", &["change the current group, from 0 to 31"]),
    ("hash", &["choose channels of the current group by a hash", "of the client's address", STAY]),
    ("help", &["print this"]),
    ("kill", &["end balance: no new connections, spell it out", GO_ON]),
    ("maxc <channel> <maxc>", &["set the most connections at a time, 0: no limit", GO_ON]),
    ("mrtg-bytes <group> <channel>", &["print bytes received and sent, for MRTG"]),
    ("mrtg-conns <group> <channel>", &["print the number of connections, for MRTG"]),
    ("quit", &["leave"]),
    ("reset <channel>", &["set totalc, sent and rcvd to zero", GO_ON]),
    ("rr", &["choose channels of the current group in turn", STAY]),
    ("show", &["print all channels"]),
    ("version", &["print the version of the classic that this is", "compatible with"]),
    ("show --json", &["print all channels as JSON"]),
    ("sessions", &["print all connections"]),
    ("stats", &["print what has been done since the start"]),
    (
        "drain <channel> [<seconds>]",
        &[
            "disable, wait for the end of its connections,",
            "so long at most, and say how many are left",
            GO_ON,
        ],
    ),
    (
        "drop <channel>",
        &[
            "reset its connections on both sides, at once;",
            "it takes new ones unless it is disabled",
        ],
    ),
];

const GO_ON: &str = "(standing connections go on)";
const STAY: &str = "(standing connections stay where they are)";

/// What is true of all commands.
pub const NOTES: &str = "\
<channel> is a number in the current group, or <group>.<number> in any.
All but kill can be shortened. Several on a line are separated by a semicolon
and a blank; if one fails, those after it are not carried out. Commands that
say nothing of standing connections do nothing to them.
";

/// What `version` prints: scripts compare it.
pub(super) const VERSION: &str = "  This is balance 3.57\n  MAXGROUPS=32\n  MAXCHANNELS=64\n";

/// What `help` prints.
pub(super) fn help() -> String {
    let mut text = "available commands:\n".to_owned();
    for (usage, lines) in COMMANDS {
        let mut left = usage;
        for line in lines {
            text += &format!("  {left:<31}{line}\n");
            left = "";
        }
    }
    text + NOTES
}

#[cfg(test)]
mod tests {
    use super::{super::command::NAMES, *};

    #[test]
    fn every_command_is_described_from_column_34_on() {
        let text = help();
        let described = |name: &&str| {
            text.lines().any(|line| {
                line.strip_prefix("  ").and_then(|l| l.split_whitespace().next()) == Some(*name)
                    && line.as_bytes()[32] == b' '
                    && line.as_bytes()[33] != b' '
            })
        };
        assert!(NAMES.iter().all(described), "{text}");
        assert!(text.starts_with("available commands:\n  create <host> <port>           add "));
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}
