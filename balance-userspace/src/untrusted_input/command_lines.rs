//! Command lines and configuration files.
//!
//! Invariant: the formatted form of every parsed value parses to the same value.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use super::{assert_one_line, split_arguments};
use crate::{
    cli::{
        self, Invocation, completion,
        operand::{self, ChannelSpec, GroupSpec},
    },
    selection::Method,
    service::{
        conf::{self, Conf, Line},
        plan::{self, Step},
    },
};

/// The path of the main file.
const MAIN: &str = "x";

fn services(name: &str) -> Option<u16> {
    (name == "smtp").then_some(25)
}

/// Ports and channels, one on each line. Parsed values are valid, and their formatted form parses
/// to the same groups.
pub fn channel_arguments(data: &[u8]) {
    let arguments = split_arguments(data);
    for argument in &arguments {
        match operand::listen_port(argument, &services) {
            Ok(port) => assert_ne!(port, 0),
            Err(error) => assert_one_line(&error.to_string()),
        }
    }
    for [host, port] in arguments.as_chunks().0 {
        match operand::host_and_port(host, port, &services) {
            Ok(spec) => assert!(spec.port != 0 && !spec.host.is_empty(), "{spec:?}"),
            Err(error) => assert_one_line(&error.to_string()),
        }
    }
    match operand::groups(&arguments, 2500, &services) {
        Ok(groups) => {
            assert!(groups.iter().all(|group| !group.channels.is_empty()), "{groups:?}");
            let formatted: Vec<String> = groups.iter().flat_map(format_group).collect();
            let parsed = operand::groups(&formatted, 1, &|_| None);
            assert_eq!(parsed.expect("formatted groups parse"), groups);
        }
        Err(error) => assert_one_line(&error.to_string()),
    }
}

fn format_group(group: &GroupSpec) -> Vec<String> {
    let channel = |ChannelSpec { host, port, max, name }: &ChannelSpec| {
        assert!(*port != 0 && !host.is_empty());
        let in_brackets = host.contains(':') || host.starts_with('[');
        let name = name.as_ref().map(|name| format!(",name={name}")).unwrap_or_default();
        if in_brackets {
            format!("[{host}]:{port}:{max}{name}")
        } else {
            format!("{host}:{port},max={max}{name}")
        }
    };
    let end = match group.method {
        Method::RoundRobin => "!",
        Method::Hash => "%",
    };
    group.channels.iter().map(channel).chain([end.to_owned()]).collect()
}

/// A whole command line, one argument on each line, and its completion.
pub fn command_line(data: &[u8]) {
    let words = data.split(|&byte| byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    let line: Vec<OsString> = std::iter::once("balance".into()).chain(words).collect();
    // Completion works on invalid command lines too.
    let _ = completion::command(&line);
    match cli::parse(line) {
        Ok(Invocation::Instance(args)) => assert!(args.can_reload_to(&args)),
        Ok(Invocation::Verb(_)) => {}
        Ok(Invocation::Print(text)) => assert!(!text.is_empty()),
        Err(error) => assert_one_line(&error.to_string()),
    }
}

/// Two configuration files with a zero byte between them. `include` in one of them includes the
/// other one. Their formatted lines parse to the same
/// lines. The plan of a reload has the right step for each line.
pub fn configuration(data: &[u8]) {
    let mut files = data.splitn(2, |&byte| byte == 0).map(String::from_utf8_lossy);
    let (old, new) = (files.next().unwrap_or_default(), files.next().unwrap_or_default());
    let (old, new) = (parse_file(&old, &new), parse_file(&new, &old));
    let steps = |old: &[Line], new: &[Line]| {
        let plan = plan::plan(old.iter(), new.to_vec());
        let is_removed = |line: &&Line| new.iter().all(|other| other.name != line.name);
        assert_eq!(plan.remove.len(), old.iter().filter(is_removed).count());
        let names = plan.steps.iter().map(|(line, _)| &line.name);
        assert!(names.eq(new.iter().map(|line| &line.name)));
        plan.steps.into_iter().map(|(_, step)| step).collect::<Vec<_>>()
    };
    assert!(steps(&old, &old).iter().all(|step| *step == Step::Keep));
    assert!(steps(&[], &new).iter().all(|step| *step == Step::Start));
    steps(&old, &new);
}

/// Every pattern of `include` names this file.
struct OtherFile<'a>(&'a str);

impl conf::Files for OtherFile<'_> {
    fn find(&self, _: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
        Ok(vec![pattern.into()])
    }

    fn text(&self, _: &Path) -> Result<String, String> {
        Ok(self.0.to_owned())
    }

    fn identity(&self, file: &Path) -> PathBuf {
        if file == MAIN { MAIN.into() } else { "other".into() }
    }
}

fn parse(text: &str, other: &str) -> Conf {
    conf::read(Path::new(MAIN), text, &services, &OtherFile(other))
}

fn parse_file(text: &str, other: &str) -> Vec<Line> {
    let conf = parse(text, other);
    let lines_of_other = other.lines().count().max(1);
    assert!(conf.lines.len() + conf.mistakes.len() <= text.lines().count() * lines_of_other);
    conf.mistakes.iter().for_each(|mistake| assert_one_line(&mistake.what));
    assert!(conf.mistakes.is_sorted_by_key(|mistake| mistake.position.ordinal));
    assert!(conf.lines.is_sorted_by_key(|line| line.position.ordinal));
    let quoted = conf.lines.iter().map(|line| line.quoted() + "\n");
    let reparsed = parse(&quoted.collect::<String>(), "");
    assert_eq!(reparsed.mistakes, []);
    let key = |line: &Line| (line.name.clone(), line.words.clone());
    assert!(reparsed.lines.iter().map(key).eq(conf.lines.iter().map(key)));
    conf.lines
}
