//! Generates command lines from pieces that are known to be right or wrong, with the exit codes
//! that are allowed.
//!
//! Invariant: every line exits by itself. A line that would serve either goes to the background or
//! listens on an address that this host does not have.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use proptest::prelude::*;

pub(crate) const USAGE: i32 = 64;
pub(crate) const DATA: i32 = 65;
pub(crate) const UNAVAILABLE: i32 = 69;
pub(crate) const SYSTEM: i32 = 71;

/// The kind of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An option that does not change the exit code.
    Option,
    /// An option that no parser accepts.
    BadOption,
    /// An option that keeps the program in the foreground.
    Foreground,
    /// A command or a shell for the instance on the port, which does not run.
    Command,
    /// Help or version.
    Print,
    Channel,
    BadChannel,
    /// A host that does not resolve.
    Unresolvable,
    Separator,
}

#[derive(Clone, Debug)]
struct Piece {
    kind: Kind,
    words: Vec<OsString>,
}

#[derive(Clone, Debug)]
enum Port {
    Missing,
    Good,
    Bad(String),
}

/// A command line without the program, its run directory and its listen address.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    before: Vec<Piece>,
    port: Port,
    after: Vec<Piece>,
    /// An option at the end without its value.
    unfinished: Option<&'static str>,
}

impl Line {
    pub(crate) fn words(&self, port: u16) -> Vec<OsString> {
        // The first address is from a block for documentation (RFC 5737).
        let bind = if self.has(Kind::Foreground) { "192.0.2.1" } else { "127.0.0.1" };
        let fixed = ["-b", bind, "--datapath", "relay", "--workers=1"].map(OsString::from);
        let port = match &self.port {
            Port::Missing => None,
            Port::Good => Some(port.to_string()),
            Port::Bad(text) => Some(text.clone()),
        };
        let words = |pieces: &[Piece]| pieces.iter().flat_map(|p| p.words.clone()).collect();
        let (before, after): (Vec<_>, Vec<_>) = (words(&self.before), words(&self.after));
        let last = self.unfinished.map(OsString::from);
        fixed
            .into_iter()
            .chain(before)
            .chain(port.map(Into::into))
            .chain(after)
            .chain(last)
            .collect()
    }

    /// The allowed exit codes; several only where the order of options decides.
    pub(crate) fn codes(&self) -> Vec<i32> {
        let unreadable = self.has(Kind::BadOption) || self.unfinished.is_some();
        if self.has(Kind::Print) {
            return if unreadable { vec![0, USAGE] } else { vec![0] };
        }
        if unreadable {
            return vec![USAGE];
        }
        match &self.port {
            Port::Good => {}
            // An instance may have this name.
            Port::Bad(text) if text == "25abc" && self.is_command() => {
                return vec![USAGE, UNAVAILABLE];
            }
            _ => return vec![USAGE],
        }
        let operands = || self.after.iter().map(|p| p.kind).filter(|kind| is_operand(*kind));
        if self.is_command() {
            return vec![if operands().count() == 0 { UNAVAILABLE } else { USAGE }];
        }
        let mut channels = 0;
        for kind in operands() {
            match kind {
                Kind::BadChannel => return vec![USAGE],
                Kind::Separator if channels == 0 => return vec![UNAVAILABLE],
                Kind::Separator => channels = 0,
                _ => channels += 1,
            }
        }
        vec![match () {
            () if self.has(Kind::Unresolvable) => DATA,
            () if self.has(Kind::Foreground) => SYSTEM,
            () => 0,
        }]
    }

    /// Whether the line addresses a running instance.
    pub(crate) fn is_command(&self) -> bool {
        self.has(Kind::Command)
    }

    /// Whether a successful line leaves an instance in the background.
    pub(crate) fn serves(&self) -> bool {
        !self.has(Kind::Print)
    }

    fn has(&self, kind: Kind) -> bool {
        self.before.iter().chain(&self.after).any(|piece| piece.kind == kind)
    }
}

fn is_operand(kind: Kind) -> bool {
    matches!(kind, Kind::Channel | Kind::BadChannel | Kind::Unresolvable | Kind::Separator)
}

pub(crate) fn line() -> impl Strategy<Value = Line> {
    let options = || prop::collection::vec(option(), 0..4);
    let after = prop::collection::vec(prop_oneof![1 => option(), 2 => operand()], 0..7);
    let port = prop_oneof![1 => Just(Port::Missing), 12 => Just(Port::Good), 2 => bad_port()];
    let unfinished = prop_oneof![
        20 => Just(None),
        1 => prop::sample::select(vec!["-t", "-ft", "-c", "-b", "--bind", "--grace"]).prop_map(Some),
    ];
    (options(), port, after, unfinished).prop_map(|(before, port, after, unfinished)| Line {
        before,
        port,
        after,
        unfinished,
    })
}

/// Any text that can be a word of a command line, including control characters.
fn garbage() -> impl Strategy<Value = String> {
    let special = prop::sample::select(
        "\n\r\t\u{1b}\u{7f}\u{85}\u{2028}\u{202e} :]['\"\\%!-".chars().collect::<Vec<_>>(),
    );
    let char = prop_oneof![special, any::<char>()].prop_filter("the end of a word", |c| *c != '\0');
    prop_oneof![
        8 => prop::collection::vec(char, 0..24).prop_map(String::from_iter),
        1 => (1000_usize..20_000).prop_map(|len| "x".repeat(len)),
    ]
}

fn bad_port() -> impl Strategy<Value = Port> {
    let known = vec!["", "0", "65536", "99999999999999999999", "25abc", "25 ", "[::1]", "1:2"];
    let known = prop::sample::select(known).prop_map(str::to_owned);
    prop_oneof![known, garbage().prop_map(|text| format!("~{text}"))].prop_map(Port::Bad)
}

fn piece(kind: Kind, words: &[&str]) -> Piece {
    Piece { kind, words: words.iter().map(Into::into).collect() }
}

fn option() -> impl Strategy<Value = Piece> {
    const GOOD: [&[&str]; 21] = [
        &["-d"],
        &["-a"],
        &["-H"],
        &["-M"],
        &["-p"],
        &["-da"],
        &["-dHt7"],
        &["-t5"],
        &["-t", "9"],
        &["-T", "3"],
        &["--connect-timeout=3"],
        &["--idle-timeout", "4"],
        &["--autodisable"],
        &["--log-format", "json"],
        &["--log-format=text"],
        &["-B", "127.0.0.1"],
        &["--grace", "0"],
        &["--max-connections=10"],
        &["--resolve-interval", "0"],
        &["--strict"],
        &["--debug"],
    ];
    const BAD: [&[&str]; 13] = [
        &["-Z"],
        &["-dZ"],
        &["--nosuch"],
        &["-t0"],
        &["-t", "x"],
        &["-t", "-1"],
        &["--t"],
        &["--workers", "0"],
        &["--datapath=tcp"],
        &["--grace=99999999999"],
        &["--debug=yes"],
        &["--bind", ""],
        &["--log-format", ""],
    ];
    const COMMAND: [&[&str]; 6] =
        [&["-c", "show"], &["-cshow"], &["-c", ""], &["--command=kill; kill"], &["-i"], &["-di"]];
    let of = |kind, words: &'static [&'static [&'static str]]| {
        prop::sample::select(words).prop_map(move |words| piece(kind, words))
    };
    let bad_text = (prop::sample::select(vec!["-t~", "--nosuch", "--datapath=~"]), garbage())
        .prop_map(|(option, text)| piece(Kind::BadOption, &[&format!("{option}{text}")]));
    // A word need not be UTF-8.
    let bad_bytes = prop::collection::vec(0x80..=0xff_u8, 1..9).prop_map(|mut bytes| {
        bytes.insert(0, b'~');
        bytes.push(0xff);
        Piece {
            kind: Kind::BadOption,
            words: vec!["--log-format".into(), OsString::from_vec(bytes)],
        }
    });
    let command = garbage().prop_map(|text| piece(Kind::Command, &["-c", &format!("~{text}")]));
    prop_oneof![
        20 => of(Kind::Option, &GOOD),
        1 => of(Kind::BadOption, &BAD),
        1 => bad_text,
        1 => bad_bytes,
        2 => of(Kind::Foreground, &[&["-f"], &["-fp"], &["-aft4"], &["--foreground"]]),
        2 => of(Kind::Command, &COMMAND),
        1 => command,
        1 => of(Kind::Print, &[&["--help"], &["-h"], &["--version"], &["-V"]]),
    ]
}

fn operand() -> impl Strategy<Value = Piece> {
    // Not the listen address itself without a port, which would be the listener.
    const GOOD: [&str; 10] = [
        "127.0.0.2",
        "127.0.0.2,max=3",
        "[::1]:9,max=3",
        "127.0.0.2:",
        "127.0.0.1:9",
        "127.0.0.1:9:3",
        "127.0.0.2::4",
        "[::1]",
        "[::1]:9",
        "[::1]:9:5",
    ];
    const BAD: [&str; 9] = [
        "",
        ":",
        "::1",
        "[]:25",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:9:-1",
        "[::1]x",
        "127.0.0.1:9:99999999999",
    ];
    let fixed = |kind, words: &'static [&'static str]| {
        prop::sample::select(words).prop_map(move |word| piece(kind, &[word]))
    };
    let fourth =
        garbage().prop_map(|text| piece(Kind::BadChannel, &[&format!("127.0.0.1:9:5:{text}")]));
    let settings = garbage()
        .prop_map(|text| piece(Kind::BadChannel, &[&format!("127.0.0.1:9,weight{text}=1")]));
    let bad = (prop::sample::select(vec![":", "127.0.0.1:~", "127.0.0.1:9:~"]), garbage())
        .prop_map(|(start, text)| piece(Kind::BadChannel, &[&format!("{start}{text}")]));
    let open = garbage()
        .prop_map(|text| piece(Kind::BadChannel, &[&format!("[::1{}", text.replace(']', ""))]));
    // Too long for a name, so no name server is asked.
    let nowhere = (64_usize..5000).prop_map(|len| piece(Kind::Unresolvable, &[&"x".repeat(len)]));
    prop_oneof![
        10 => fixed(Kind::Channel, &GOOD),
        1 => fourth,
        1 => settings,
        4 => fixed(Kind::Separator, &["!", "%"]),
        1 => fixed(Kind::BadChannel, &BAD),
        1 => bad,
        1 => open,
        1 => nowhere,
    ]
}
