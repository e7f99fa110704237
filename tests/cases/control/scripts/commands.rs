//! Generates control scripts: commands as typed, each with its meaning.
//!
//! Invariant: the meaning comes from how a command was generated, never from its text. No command
//! takes time or ends the running balance.

use std::net::SocketAddr;

use proptest::prelude::*;

/// A channel as typed: `3`, `1.3`, or a word that is neither and the name of no server.
#[derive(Clone, Debug)]
pub(crate) struct ChannelName {
    pub(crate) word: String,
    pub(crate) group: Option<i64>,
    pub(crate) channel: i64,
    spelling: Spelling,
}

/// How a channel is spelled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spelling {
    /// A number, or group and number.
    Position,
    /// The name of a server.
    Name,
}

impl ChannelName {
    /// Whether the word is read as a name.
    pub(crate) fn is_name(&self) -> bool {
        self.spelling == Spelling::Name
    }
}

/// A generated command.
#[derive(Clone, Debug)]
pub(crate) struct TypedCommand {
    /// The words as typed.
    pub(crate) words: Vec<String>,
    pub(crate) meaning: Meaning,
}

/// The meaning of a command. An address is `None` where it cannot be used.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    Nothing,
    Wrong,
    OutOfRange,
    Quit,
    Help,
    Version,
    Show,
    Sessions,
    Group(i64),
    Enable(ChannelName),
    Disable(ChannelName),
    Reset(ChannelName),
    Drain(ChannelName),
    Drop(ChannelName),
    Create(Option<TargetAddress>),
    Assign(ChannelName, Option<TargetAddress>),
    /// A maximum that is no number is `None`.
    Max(ChannelName, Option<i64>),
    Hash(bool),
    Bytes(i64, i64),
    Connections(i64, i64),
}

/// The new address of a channel.
#[derive(Clone, Debug)]
pub(crate) struct TargetAddress(pub(crate) std::net::IpAddr, pub(crate) u16);

/// A line as typed.
pub(crate) fn text(line: &[TypedCommand]) -> String {
    line.iter().map(|typed_command| typed_command.words.join(" ")).collect::<Vec<_>>().join("; ")
}

/// The number of visits before the script, whether its first line is given alone with `--strict`,
/// and its lines.
pub(crate) fn script(
    server: SocketAddr,
) -> impl Strategy<Value = (u64, bool, Vec<Vec<TypedCommand>>)> {
    let line = prop::collection::vec(typed_command(server), 1..6);
    (0_u64..4, any::<bool>(), prop::collection::vec(line, 1..10))
}

fn typed_command(server: SocketAddr) -> impl Strategy<Value = TypedCommand> {
    prop_oneof![
        12 => on_a_channel(),
        4 => (typed("group", 1), 0_i64..5).prop_map(|(c, g)| words(&[&c, &g.to_string()], Meaning::Group(g))),
        1 => (typed("group", 1), prop::sample::select(vec![("31", 31), ("32", 32), ("-1", -1)]))
            .prop_map(|(c, (word, g))| words(&[&c, word], Meaning::Group(g))),
        3 => (typed("create", 1), host(server))
            .prop_map(|(c, (words_of, to))| words(&[&c, &words_of.0, &words_of.1], Meaning::Create(to))),
        3 => (typed("assign", 1), channel_name(), host(server)).prop_map(|(c, channel_name, (at, to))| {
            words(&[&c, &channel_name.word.clone(), &at.0, &at.1], Meaning::Assign(channel_name, to))
        }),
        3 => (typed("maxc", 1), channel_name(), maximum()).prop_map(|(c, channel_name, (word, max))| {
            words(&[&c, &channel_name.word.clone(), word], Meaning::Max(channel_name, max))
        }),
        1 => typed("hash", 2).prop_map(|c| words(&[&c], Meaning::Hash(true))),
        1 => Just(words(&["rr"], Meaning::Hash(false))),
        2 => (typed("mrtg-bytes", 2), graphed())
            .prop_map(|(c, (at, (g, n)))| words(&[&c, &at], Meaning::Bytes(g, n))),
        2 => (typed("mrtg-conns", 6), graphed())
            .prop_map(|(c, (at, (g, n)))| words(&[&c, &at], Meaning::Connections(g, n))),
        2 => typed("show", 1).prop_map(|c| words(&[&c], Meaning::Show)),
        1 => typed("sessions", 2).prop_map(|c| words(&[&c], Meaning::Sessions)),
        1 => typed("version", 1).prop_map(|c| words(&[&c], Meaning::Version)),
        1 => prop::sample::select(vec!["?", "h", "help"]).prop_map(|c| words(&[c], Meaning::Help)),
        1 => prop::sample::select(vec!["", " ", "\t "]).prop_map(|c| words(&[c], Meaning::Nothing)),
        1 => wrong(),
    ]
    .prop_union_quit()
}

/// Rarely adds the end of a script.
trait Quit: Strategy<Value = TypedCommand> + Sized + 'static {
    fn prop_union_quit(self) -> BoxedStrategy<TypedCommand> {
        let quit = typed("quit", 1).prop_map(|c| words(&[&c], Meaning::Quit));
        prop_oneof![60 => self, 1 => quit].boxed()
    }
}

impl<S: Strategy<Value = TypedCommand> + 'static> Quit for S {}

fn on_a_channel() -> impl Strategy<Value = TypedCommand> {
    let named = |full, shortest, meaning: fn(ChannelName) -> Meaning| {
        (typed(full, shortest), channel_name()).prop_map(move |(c, channel_name)| {
            words(&[&c, &channel_name.word.clone()], meaning(channel_name))
        })
    };
    let exact =
        |full, shortest, tail: &'static [&'static str], meaning: fn(ChannelName) -> Meaning| {
            (typed(full, shortest), channel_name()).prop_map(move |(c, channel_name)| {
                let all = [&[c.as_str(), &channel_name.word], tail].concat();
                words(&all, meaning(channel_name.clone()))
            })
        };
    prop_oneof![
        3 => named("enable", 1, Meaning::Enable),
        3 => named("disable", 1, Meaning::Disable),
        2 => named("reset", 1, Meaning::Reset),
        1 => exact("drain", 2, &["0"], Meaning::Drain),
        1 => exact("drop", 3, &[], Meaning::Drop),
    ]
}

/// A command, or an abbreviation of at least `shortest` letters.
fn typed(full: &'static str, shortest: usize) -> impl Strategy<Value = String> {
    (shortest..=full.len()).prop_map(move |len| full[..len].to_owned())
}

fn words(all: &[&str], meaning: Meaning) -> TypedCommand {
    TypedCommand { words: all.iter().map(|&word| word.to_owned()).collect(), meaning }
}

fn channel_name() -> impl Strategy<Value = ChannelName> {
    let unusual = prop::sample::select(vec![
        ("x", None, 0, Spelling::Name),
        ("1x", None, 0, Spelling::Name),
        ("-1", None, -1, Spelling::Position),
        ("+1", None, 1, Spelling::Position),
        ("01", None, 1, Spelling::Position),
        ("1.x", None, 0, Spelling::Name),
        ("x.1", None, 0, Spelling::Name),
        ("-1.0", Some(-1), 0, Spelling::Position),
        ("0.1x", None, 0, Spelling::Name),
        ("0.1.0", None, 0, Spelling::Name),
        ("9999999999999999999999", None, i64::MAX, Spelling::Position),
        ("\u{664}", None, 0, Spelling::Name),
    ])
    .prop_map(|(word, group, channel, spelling)| ChannelName {
        word: word.into(),
        group,
        channel,
        spelling,
    });
    prop_oneof![
        6 => (0_i64..4).prop_map(|n| ChannelName { word: n.to_string(), group: None, channel: n, spelling: Spelling::Position }),
        4 => (0_i64..4, 0_i64..3).prop_map(|(g, n)| {
            ChannelName { word: format!("{g}.{n}"), group: Some(g), channel: n, spelling: Spelling::Position }
        }),
        2 => unusual,
    ]
}

fn maximum() -> impl Strategy<Value = (&'static str, Option<i64>)> {
    prop::sample::select(vec![
        ("0", Some(0)),
        ("1", Some(1)),
        ("50x", None),
        ("many", None),
        ("-3", Some(-3)),
        ("4294967295", Some(4_294_967_295)),
        ("4294967296", Some(4_294_967_296)),
        ("12345", Some(12_345)),
    ])
}

/// Group and channel, in two words or in one.
fn graphed() -> impl Strategy<Value = (String, (i64, i64))> {
    prop_oneof![
        4 => (0_i64..5, 0_i64..3).prop_map(|(g, n)| (format!("{g} {n}"), (g, n))),
        2 => (0_i64..5, 0_i64..3).prop_map(|(g, n)| (format!("{g}.{n}"), (g, n))),
        1 => prop::sample::select(vec![("-1 0", (-1, 0)), ("0 -1", (0, -1)), ("99 0", (99, 0))])
            .prop_map(|(word, at)| (word.to_owned(), at)),
    ]
}

/// Address and port as typed, and the resulting address.
fn host(server: SocketAddr) -> impl Strategy<Value = ((String, String), Option<TargetAddress>)> {
    let four = server.ip();
    let six = std::net::Ipv6Addr::LOCALHOST.into();
    let at = |ip, port| Some(TargetAddress(ip, port));
    let to_server = ((four.to_string(), server.port().to_string()), at(four, server.port()));
    let others = [
        ("127.0.0.1", "9", at(four, 9)),
        ("127.0.0.1:55", "99", at(four, 55)),
        ("127.0.0.1:", "99", at(four, 99)),
        ("127.0.0.1:55", "nosuchservice", at(four, 55)),
        ("127.0.0.1::3", "99", at(four, 99)),
        ("127.0.0.1:55,max=3", "99", at(four, 55)),
        ("127.0.0.1:55:1:2", "99", None),
        ("127.0.0.1,weight=1", "99", None),
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
        // Too long for a host name, so no name server is asked.
        ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "9", None),
    ];
    let others = others.map(|(host, port, to)| ((host.to_owned(), port.to_owned()), to));
    prop_oneof![1 => Just(to_server), 3 => prop::sample::select(others.to_vec())]
}

/// Text that is no command, or an incomplete command.
fn wrong() -> impl Strategy<Value = TypedCommand> {
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
        "group x",
        "group 1x",
        "version and more",
        "show x",
        "disable 0 1",
        "mrtg-bytes x y",
        ";;x",
    ])
    .prop_map(|text| words(&[text], Meaning::Wrong));
    let late = Just(words(&["drain", "0", "31536001"], Meaning::OutOfRange));
    // Without characters that end a line or a command.
    let garbage = prop::collection::vec(any::<char>(), 0..30)
        .prop_map(|chars| chars.into_iter().filter(|c| !"\n;\0".contains(*c)).collect::<String>())
        .prop_map(|text| words(&[&format!("~{text}")], Meaning::Wrong));
    let long = (1_usize..3000).prop_map(|len| words(&[&"showshow".repeat(len)], Meaning::Wrong));
    prop_oneof![4 => known, 1 => late, 4 => garbage, 1 => long]
}
