//! Control scripts: commands as they can be typed, each with what it means.
//!
//! Invariant: the meaning is known from how a command was made and never read from its text, and
//! no command takes time or ends the running balance.

use std::net::SocketAddr;

use proptest::prelude::*;

/// A channel as typed: `3`, `1.3`, or a word that begins with a number or with none.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) word: String,
    pub(crate) group: Option<i64>,
    pub(crate) channel: i64,
    spelling: Spelling,
}

/// How well a channel is spelled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spelling {
    Exact,
    /// Commands without a past do not take it.
    Loose,
    /// No command takes it.
    Slip,
}

impl Name {
    /// What a command means by it.
    fn act(self, act: impl FnOnce(Name) -> Act) -> Act {
        if self.spelling == Spelling::Slip { Act::Wrong } else { act(self) }
    }
}

/// A command.
#[derive(Clone, Debug)]
pub(crate) struct Say {
    /// As typed, in words.
    pub(crate) words: Vec<String>,
    pub(crate) act: Act,
}

/// What a command means. An address is `None` where it cannot be used.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Nothing,
    Wrong,
    OutOfRange,
    Quit,
    Help,
    Version,
    Show,
    Sessions,
    Group(i64),
    Enable(Name),
    Disable(Name),
    Reset(Name),
    Drain(Name),
    Drop(Name),
    Create(Option<Host>),
    Assign(Name, Option<Host>),
    Max(Name, i64),
    Hash(bool),
    Bytes(i64, i64),
    Connections(i64, i64),
}

/// Where a channel is to lead.
#[derive(Clone, Debug)]
pub(crate) struct Host(pub(crate) std::net::IpAddr, pub(crate) u16);

/// A line as typed.
pub(crate) fn text(line: &[Say]) -> String {
    line.iter().map(|say| say.words.join(" ")).collect::<Vec<_>>().join("; ")
}

/// Visits before it, whether its first line is given alone and strictly, and its lines.
pub(crate) fn script(server: SocketAddr) -> impl Strategy<Value = (u64, bool, Vec<Vec<Say>>)> {
    let line = prop::collection::vec(say(server), 1..6);
    (0_u64..4, any::<bool>(), prop::collection::vec(line, 1..10))
}

fn say(server: SocketAddr) -> impl Strategy<Value = Say> {
    prop_oneof![
        12 => on_a_channel(),
        4 => (typed("group", 1), 0_i64..5).prop_map(|(c, g)| words(&[&c, &g.to_string()], Act::Group(g))),
        1 => (typed("group", 1), prop::sample::select(vec![("31", 31), ("x", 0), ("32", 32), ("-1", -1), ("1x", 1)]))
            .prop_map(|(c, (word, g))| words(&[&c, word], Act::Group(g))),
        3 => (typed("create", 1), host(server))
            .prop_map(|(c, (words_of, to))| words(&[&c, &words_of.0, &words_of.1], Act::Create(to))),
        3 => (typed("assign", 1), name(), host(server)).prop_map(|(c, name, (at, to))| {
            words(&[&c, &name.word.clone(), &at.0, &at.1], name.act(|name| Act::Assign(name, to)))
        }),
        3 => (typed("maxc", 1), name(), maximum()).prop_map(|(c, name, (word, max))| {
            words(&[&c, &name.word.clone(), word], name.act(|name| Act::Max(name, max)))
        }),
        1 => typed("hash", 2).prop_map(|c| words(&[&c], Act::Hash(true))),
        1 => Just(words(&["rr"], Act::Hash(false))),
        2 => (typed("mrtg-bytes", 2), graphed())
            .prop_map(|(c, (at, (g, n)))| words(&[&c, &at], Act::Bytes(g, n))),
        2 => (typed("mrtg-conns", 6), graphed())
            .prop_map(|(c, (at, (g, n)))| words(&[&c, &at], Act::Connections(g, n))),
        2 => typed("show", 1).prop_map(|c| words(&[&c], Act::Show)),
        1 => typed("sessions", 2).prop_map(|c| words(&[&c], Act::Sessions)),
        1 => typed("version", 1).prop_map(|c| words(&[&c, "and", "more"], Act::Version)),
        1 => prop::sample::select(vec!["?", "h", "help"]).prop_map(|c| words(&[c], Act::Help)),
        1 => prop::sample::select(vec!["", " ", "\t "]).prop_map(|c| words(&[c], Act::Nothing)),
        1 => wrong(),
    ]
    .prop_union_quit()
}

/// Rarely, the end of a script before its time.
trait Quit: Strategy<Value = Say> + Sized + 'static {
    fn prop_union_quit(self) -> BoxedStrategy<Say> {
        let quit = typed("quit", 1).prop_map(|c| words(&[&c], Act::Quit));
        prop_oneof![60 => self, 1 => quit].boxed()
    }
}

impl<S: Strategy<Value = Say> + 'static> Quit for S {}

fn on_a_channel() -> impl Strategy<Value = Say> {
    let named = |full, shortest, act: fn(Name) -> Act| {
        (typed(full, shortest), name())
            .prop_map(move |(c, name)| words(&[&c, &name.word.clone()], name.act(act)))
    };
    let exact = |full, shortest, tail: &'static [&'static str], act: fn(Name) -> Act| {
        (typed(full, shortest), name()).prop_map(move |(c, name)| {
            let all = [&[c.as_str(), &name.word], tail].concat();
            let is_exact = name.spelling == Spelling::Exact;
            words(&all, if is_exact { act(name.clone()) } else { Act::Wrong })
        })
    };
    prop_oneof![
        3 => named("enable", 1, Act::Enable),
        3 => named("disable", 1, Act::Disable),
        2 => named("reset", 1, Act::Reset),
        1 => exact("drain", 2, &["0"], Act::Drain),
        1 => exact("drop", 3, &[], Act::Drop),
    ]
}

/// A command or an abbreviation of it with so many letters at least.
fn typed(full: &'static str, shortest: usize) -> impl Strategy<Value = String> {
    (shortest..=full.len()).prop_map(move |len| full[..len].to_owned())
}

fn words(all: &[&str], act: Act) -> Say {
    Say { words: all.iter().map(|&word| word.to_owned()).collect(), act }
}

fn name() -> impl Strategy<Value = Name> {
    let odd = prop::sample::select(vec![
        ("x", None, 0, Spelling::Loose),
        ("1x", None, 1, Spelling::Loose),
        ("-1", None, -1, Spelling::Loose),
        ("+1", None, 1, Spelling::Loose),
        ("01", None, 1, Spelling::Exact),
        ("1.x", None, 1, Spelling::Slip),
        ("x.1", None, 0, Spelling::Loose),
        ("-1.0", Some(-1), 0, Spelling::Loose),
        ("0.1x", Some(0), 1, Spelling::Slip),
        ("9999999999999999999999", None, i64::MAX, Spelling::Exact),
        ("\u{664}", None, 0, Spelling::Loose),
    ])
    .prop_map(|(word, group, channel, spelling)| Name {
        word: word.into(),
        group,
        channel,
        spelling,
    });
    prop_oneof![
        6 => (0_i64..4).prop_map(|n| Name { word: n.to_string(), group: None, channel: n, spelling: Spelling::Exact }),
        4 => (0_i64..4, 0_i64..3).prop_map(|(g, n)| {
            Name { word: format!("{g}.{n}"), group: Some(g), channel: n, spelling: Spelling::Exact }
        }),
        2 => odd,
    ]
}

fn maximum() -> impl Strategy<Value = (&'static str, i64)> {
    prop::sample::select(vec![
        ("0", 0),
        ("1", 1),
        ("50x", 50),
        ("many", 0),
        ("-3", -3),
        ("4294967295", 4_294_967_295),
        ("4294967296", 4_294_967_296),
        ("12345", 12_345),
    ])
}

/// Group and channel in two words, or in one.
fn graphed() -> impl Strategy<Value = (String, (i64, i64))> {
    prop_oneof![
        4 => (0_i64..5, 0_i64..3).prop_map(|(g, n)| (format!("{g} {n}"), (g, n))),
        2 => (0_i64..5, 0_i64..3).prop_map(|(g, n)| (format!("{g}.{n}"), (g, n))),
        1 => prop::sample::select(vec![("-1 0", (-1, 0)), ("x y", (0, 0)), ("0 -1", (0, -1)), ("99 0", (99, 0))])
            .prop_map(|(word, at)| (word.to_owned(), at)),
    ]
}

/// Host and port as typed, and where that is.
fn host(server: SocketAddr) -> impl Strategy<Value = ((String, String), Option<Host>)> {
    let four = server.ip();
    let six = std::net::Ipv6Addr::LOCALHOST.into();
    let at = |ip, port| Some(Host(ip, port));
    let to_server = ((four.to_string(), server.port().to_string()), at(four, server.port()));
    let others = [
        ("127.0.0.1", "9", at(four, 9)),
        ("127.0.0.1:55", "99", at(four, 55)),
        ("127.0.0.1:", "99", at(four, 99)),
        ("127.0.0.1:55", "nosuchservice", at(four, 55)),
        ("127.0.0.1::3", "99", at(four, 99)),
        ("[::1]", "443", at(six, 443)),
        ("[::1]:55", "443", at(six, 55)),
        ("127.0.0.1", "0", None),
        ("127.0.0.1", "65536", None),
        ("127.0.0.1", "-9", None),
        ("127.0.0.1", "nosuchservice", None),
        ("127.0.0.1:x", "9", None),
        ("[::1", "9", None),
        ("[::1]", "nosuchservice", None),
        (":", "9", None),
        // Too long for a name: no name server is asked.
        ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "9", None),
    ];
    let others = others.map(|(host, port, to)| ((host.to_owned(), port.to_owned()), to));
    prop_oneof![1 => Just(to_server), 3 => prop::sample::select(others.to_vec())]
}

/// What is no command, or lacks something.
fn wrong() -> impl Strategy<Value = Say> {
    let known = prop::sample::select(vec![
        "k",
        "kil",
        "killall",
        "Show",
        "showx",
        "disable",
        "enable",
        "reset",
        "group",
        "create",
        "create 127.0.0.1",
        "assign 0",
        "assign 0 127.0.0.1",
        "maxc",
        "maxc 0",
        "mrtg-bytes",
        "mrtg-conns 0",
        "drain",
        "drop",
        "drain 0 x",
        "drain 0 -1",
        "drop 0x",
        "drain 1.2.3",
        ";;x",
    ])
    .prop_map(|text| words(&[text], Act::Wrong));
    let late = Just(words(&["drain", "0", "31536001"], Act::OutOfRange));
    // No end of a line or of a command within.
    let garbage = prop::collection::vec(any::<char>(), 0..30)
        .prop_map(|chars| chars.into_iter().filter(|c| !"\n;\0".contains(*c)).collect::<String>())
        .prop_map(|text| words(&[&format!("~{text}")], Act::Wrong));
    let long = (1_usize..3000).prop_map(|len| words(&[&"showshow".repeat(len)], Act::Wrong));
    prop_oneof![4 => known, 1 => late, 4 => garbage, 1 => long]
}
