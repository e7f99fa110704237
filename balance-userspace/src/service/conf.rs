//! Parser of the configuration file: each line has the arguments of one instance.
//!
//! Pure: the caller provides the lookup of service names, and the parser looks up nothing else.
//!
//! Invariants:
//! - A line means the same as on the command line.
//! - A mistake in one line does not affect other lines.
//! - No two parsed lines have the same instance name.

use std::{ffi::OsString, fmt, path::Path};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use crate::cli::{
    args::{Args, Mode},
    operand::{self, Services},
    usage_error,
};

/// The identity of an instance: its port and the literal text of `-b`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceName {
    /// The listening port.
    pub port: u16,
    /// The listening address as written; `None` for all addresses.
    pub bind: Option<String>,
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bind {
            None => write!(f, "{}", self.port),
            Some(bind) if bind.contains(':') => write!(f, "[{bind}]:{}", self.port),
            Some(bind) => write!(f, "{bind}:{}", self.port),
        }
    }
}

/// A parsed line: one instance.
#[derive(Clone, Debug)]
pub struct Line {
    /// Number of its first line in the file, from 1.
    pub number: usize,
    /// Name of the instance.
    pub name: InstanceName,
    /// The arguments without the program name.
    pub words: Vec<String>,
    /// The parsed arguments.
    pub args: Args,
}

/// A mistake in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Number of its first line in the file, from 1.
    pub number: usize,
    /// The mistake, in one line.
    pub what: String,
}

/// A parsed file.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    /// The valid lines, in the order of the file.
    pub lines: Vec<Line>,
    /// The mistakes, in the order of the file.
    pub mistakes: Vec<Mistake>,
}

impl Conf {
    /// Formats the mistakes as `FILE:LINE: REASON`.
    pub fn wrong(&self, file: &Path) -> Vec<String> {
        let file = file.display();
        let mistakes = self.mistakes.iter();
        mistakes.map(|mistake| format!("{file}:{}: {}", mistake.number, mistake.what)).collect()
    }
}

/// Parses the text of a file.
pub fn read(text: &str, services: Services<'_>) -> Conf {
    let mut conf = Conf::default();
    for (number, text) in logical_lines(text) {
        match line(number, &text, services) {
            Ok(None) => {}
            Ok(Some(line)) => match conf.lines.iter().find(|other| other.name == line.name) {
                Some(first) => conf.mistakes.push(Mistake {
                    number,
                    what: format!("{} is already on line {}", line.name, first.number),
                }),
                None => conf.lines.push(line),
            },
            Err(what) => conf.mistakes.push(Mistake { number, what }),
        }
    }
    conf
}

/// Joins lines that end with `\`. Each logical line has the number of its first line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut is_continued = false;
    for (i, line) in text.lines().enumerate() {
        let (line, joins) = match line.strip_suffix('\\') {
            Some(rest) if !ends_in_comment(rest) => (rest, true),
            _ => (line, false),
        };
        match lines.last_mut().filter(|_| is_continued) {
            Some((_, text)) => *text += line,
            None => lines.push((i + 1, line.to_owned())),
        }
        is_continued = joins;
    }
    lines
}

/// Whether text appended to `text` would be part of a comment.
fn ends_in_comment(text: &str) -> bool {
    const MORE: &str = "more";
    let words = shlex::split(&format!("{text} {MORE}"));
    words.is_some_and(|words| words.last().is_none_or(|word| word != MORE))
}

/// Parses one logical line; `None` if it is empty.
fn line(number: usize, text: &str, services: Services<'_>) -> Result<Option<Line>, String> {
    let words = shlex::split(text).ok_or("a quote is not closed, or a backslash ends the line")?;
    if words.is_empty() {
        return Ok(None);
    }
    if words.iter().any(|word| word.contains(char::REPLACEMENT_CHARACTER)) {
        return Err("it is not UTF-8".to_owned());
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err("there is a zero byte in it".to_owned());
    }
    let line = std::iter::once("balance").chain(words.iter().map(String::as_str));
    let line: Vec<OsString> = line.map(Into::into).collect();
    let args = Args::try_parse_from(&line).map_err(|e| match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            "--help and --version have no place in a configuration file".to_owned()
        }
        _ => usage_error::describe(&e, &Args::command(), &line),
    })?;
    if args.mode() != Mode::Serve {
        return Err("-c and -i have no place in a configuration file".to_owned());
    }
    if args.run_dir.as_ref().is_some_and(|path| path.is_relative()) {
        return Err("--run-dir must be an absolute path here".to_owned());
    }
    let wrong = |e: crate::error::StartError| e.to_string();
    let port = operand::listen_port(&args.port, services).map_err(wrong)?;
    operand::groups(&args.channels, port, services).map_err(wrong)?;
    let name = InstanceName { port, bind: args.bind.clone() };
    Ok(Some(Line { number, name, words, args }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn services(name: &str) -> Option<u16> {
        (name == "smtp").then_some(25)
    }

    fn lines(text: &str) -> Vec<(usize, String)> {
        let conf = read(text, &services);
        assert_eq!(conf.mistakes, [], "{text}");
        conf.lines.iter().map(|line| (line.number, line.words.join("|"))).collect()
    }

    fn mistakes(text: &str) -> Vec<(usize, String)> {
        let conf = read(text, &services);
        conf.mistakes.into_iter().map(|mistake| (mistake.number, mistake.what)).collect()
    }

    #[test]
    fn a_line_is_a_command_line() {
        let expected = |number, words: &str| (number, words.to_owned());
        assert_eq!(lines(""), []);
        assert_eq!(lines("\n  \n# 25 a\n\t# b \\\n"), []);
        assert_eq!(lines("25 a b"), [expected(1, "25|a|b")]);
        assert_eq!(
            lines("25 a b # c\n\n  -b '::1' smtp \"x y\" ! z%\r\n"),
            [expected(1, "25|a|b"), expected(3, "-b|::1|smtp|x y|!|z%")]
        );
        assert_eq!(
            lines("25 a \\\n  b\\\nc # d \\\n26 e"),
            [expected(1, "25|a|bc"), expected(4, "26|e")]
        );
        assert_eq!(lines("25 a\\ b 'c\\\nd'"), [expected(1, "25|a b|cd")]);
    }

    #[test]
    fn an_instance_is_named_by_port_and_address() {
        let conf = read("smtp a\n-b ::1 25 a\n25 -b localhost a", &services);
        let names: Vec<_> = conf.lines.iter().map(|line| line.name.to_string()).collect();
        assert_eq!(names, ["25", "[::1]:25", "localhost:25"]);
    }

    #[test]
    fn a_mistake_has_its_line_number_and_other_lines_are_valid() {
        let text = "25 a\nnosuch a\n26 'a\n-x 27\n\n28 ! a\nsmtp b\n29 a:b:c:d \\\n e\n-c show 25\n--help\n30";
        let expected = [
            (2, "port nosuch: expected"),
            (3, "a quote is not closed"),
            (4, "-x: unknown option"),
            (6, "no channels in group 0"),
            (7, "25 is already on line 1"),
            (8, "server a:b:c:d: port b: expected"),
            (10, "-c and -i have no place"),
            (11, "--help and --version have no place"),
        ];
        let found = mistakes(text);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((number, what), (at, begins)) in found.iter().zip(expected) {
            assert!(*number == at && what.starts_with(begins), "{number} {what}");
            assert!(!what.contains('\n'), "{what}");
        }
        assert_eq!(read(text, &services).lines.len(), 2);
    }

    #[test]
    fn a_mistake_has_no_control_characters() {
        let text = "25 'a\\\n:b'\n26 a:\x1b[2J\n27 a:'\\\r'\n28 a\0b";
        assert_eq!(
            mistakes("25 a:\x1b[2J"),
            [(
                1,
                "server a:\\u{1b}[2J: port \\u{1b}[2J: expected a number from 1 to 65535 or the name of a \
                 service"
                    .to_owned()
            )]
        );
        let mistakes = mistakes(text);
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        for (_, what) in mistakes {
            assert!(!what.contains(char::is_control), "{what:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_line_by_line(text in "[ -~\n\t]{0,200}") {
            let conf = read(&text, &services);
            prop_assert!(conf.lines.len() + conf.mistakes.len() <= text.lines().count());
            prop_assert!(conf.mistakes.iter().all(|mistake| !mistake.what.contains('\n')));
        }

        #[test]
        fn quoted_words_are_parsed_back(words in prop::collection::vec("[a-z#'\" !%\\\\]{1,6}", 1..5)) {
            let words: Vec<String> = words.into_iter().filter(|w| w != "!" && w != "%").collect();
            let all = std::iter::once("25").chain(words.iter().map(String::as_str));
            let text = shlex::try_join(all).unwrap();
            let conf = read(&text, &services);
            for line in &conf.lines {
                prop_assert_eq!(&line.words[1..], &words[..]);
            }
            prop_assert_eq!(conf.lines.len() + conf.mistakes.len(), 1);
        }
    }
}
