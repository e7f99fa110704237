//! Command lines and configuration files.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use super::{assert_one_line, words};
use crate::{
    cli::{
        self, Invocation, completion,
        operand::{self, ChannelSpec, GroupSpec},
    },
    selection::Method,
    service::{
        conf::{self, Line},
        plan::{self, Step},
    },
};

fn services(name: &str) -> Option<u16> {
    (name == "smtp").then_some(25)
}

/// Ports and channels, one on each line: those that are read can be used, and mean the same when
/// they are written down and read again.
pub fn channel_arguments(data: &[u8]) {
    let words = words(data);
    for word in &words {
        match operand::listen_port(word, &services) {
            Ok(port) => assert_ne!(port, 0),
            Err(error) => assert_one_line(&error.to_string()),
        }
    }
    for [host, port] in words.as_chunks().0 {
        match operand::host_and_port(host, port, &services) {
            Ok(spec) => assert!(spec.port != 0 && !spec.host.is_empty(), "{spec:?}"),
            Err(error) => assert_one_line(&error.to_string()),
        }
    }
    match operand::groups(&words, 2500, &services) {
        Ok(groups) => {
            assert!(groups.iter().all(|group| !group.channels.is_empty()), "{groups:?}");
            let again: Vec<String> = groups.iter().flat_map(written).collect();
            let read = operand::groups(&again, 1, &|_| None);
            assert_eq!(read.expect("what has been read before"), groups);
        }
        Err(error) => assert_one_line(&error.to_string()),
    }
}

fn written(group: &GroupSpec) -> Vec<String> {
    let channel = |ChannelSpec { host, port, max }: &ChannelSpec| {
        assert!(*port != 0 && !host.is_empty());
        let in_brackets = host.contains(':') || host.starts_with('[');
        if in_brackets { format!("[{host}]:{port}:{max}") } else { format!("{host}:{port}:{max}") }
    };
    let end = match group.method {
        Method::RoundRobin => "!",
        Method::Hash => "%",
    };
    group.channels.iter().map(channel).chain([end.to_owned()]).collect()
}

/// A whole command line, a word on each line, and its completion.
pub fn command_line(data: &[u8]) {
    let words = data.split(|&byte| byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    let line: Vec<OsString> = std::iter::once("balance".into()).chain(words).collect();
    // What can stand next is looked for on every line, also on one that makes no sense.
    let _ = completion::command(&line);
    match cli::parse(line) {
        Ok(Invocation::Instance(args)) => assert!(args.can_reload_to(&args)),
        Ok(Invocation::Verb(_)) => {}
        Ok(Invocation::Print(text)) => assert!(!text.is_empty()),
        Err(error) => assert_one_line(&error.to_string()),
    }
}

/// A configuration file, and another one behind a zero: its lines can be started, they are the same
/// when they are written down and read again, and reloading does for each line what it says.
pub fn configuration(data: &[u8]) {
    let mut files = data.splitn(2, |&byte| byte == 0).map(read);
    let (old, new) = (files.next().unwrap_or_default(), files.next().unwrap_or_default());
    let steps = |old: &[Line], new: &[Line]| {
        let plan = plan::plan(old.iter(), new.to_vec());
        let is_left = |line: &&Line| new.iter().all(|other| other.name != line.name);
        assert_eq!(plan.remove.len(), old.iter().filter(is_left).count());
        let names = plan.steps.iter().map(|(line, _)| &line.name);
        assert!(names.eq(new.iter().map(|line| &line.name)));
        plan.steps.into_iter().map(|(_, step)| step).collect::<Vec<_>>()
    };
    assert!(steps(&old, &old).iter().all(|step| *step == Step::Keep));
    assert!(steps(&[], &new).iter().all(|step| *step == Step::Start));
    steps(&old, &new);
}

fn read(data: &[u8]) -> Vec<Line> {
    let text = String::from_utf8_lossy(data);
    let conf = conf::read(&text, &services);
    assert!(conf.lines.len() + conf.mistakes.len() <= text.lines().count());
    conf.mistakes.iter().for_each(|mistake| assert_one_line(&mistake.what));
    assert!(conf.mistakes.is_sorted_by_key(|mistake| mistake.number));
    assert!(conf.lines.is_sorted_by_key(|line| line.number));
    let quoted = conf.lines.iter().map(|line| {
        let words = line.words.iter().map(String::as_str);
        // A process cannot be given a word with a zero in it, nor can one be quoted.
        shlex::try_join(words).expect("words that a process can be given") + "\n"
    });
    let again = conf::read(&quoted.collect::<String>(), &services);
    assert_eq!(again.mistakes, []);
    let what = |line: &Line| (line.name.clone(), line.words.clone());
    assert!(again.lines.iter().map(what).eq(conf.lines.iter().map(what)));
    conf.lines
}
