//! Parser of the configuration file: each line has the arguments of one instance, or is for the
//! lines below: `default`, `set` and `include`.
//!
//! Pure: the caller provides the look-up of service names and the access to files.
//!
//! Invariants:
//! - A line means the same as on the command line, with the defaults in front and the sets
//!   replaced.
//! - A mistake in one line does not affect other lines, except that no line runs without a default
//!   that was meant for the line.
//! - No two parsed lines have the same instance name.
//! - All parsed lines have the same process-wide settings.
//! - Lines and mistakes are in the order of the text, as if each included file stood in the place
//!   of its `include` line.

mod arguments;
mod defaults;
mod include;
mod process_settings;
mod sets;
mod words;

use std::{fmt, path::Path, sync::Arc};

use clap::CommandFactory as _;

pub use include::Files;
#[cfg(test)]
pub(crate) use include::NoFiles;
pub use process_settings::ProcessSettings;

use self::{
    defaults::Defaults,
    include::Including,
    sets::{Sets, is_reference},
};
use crate::{
    cli::{
        args::Args,
        operand::{self, Services},
    },
    error::one_line,
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

/// A position in a configuration file. Positions are in the order of the text, across included
/// files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file, by the path that the caller or an `include` line gave.
    pub file: Arc<Path>,
    /// Number of the line in the file, from 1.
    pub number: usize,
    /// Number of the line among the lines of all files.
    pub(crate) ordinal: usize,
}

impl Position {
    #[cfg(test)]
    fn new(file: &str, number: usize) -> Self {
        Self { file: Path::new(file).into(), number, ordinal: number }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.number)
    }
}

/// A parsed line: one instance.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its first line in the file.
    pub position: Position,
    /// Name of the instance.
    pub name: InstanceName,
    /// The arguments without the program name, with defaults and sets applied.
    pub words: Vec<String>,
    /// The parsed arguments.
    pub args: Args,
}

impl Line {
    /// The name for people: `--name`, or port and address.
    pub fn label(&self) -> String {
        self.args.name.clone().unwrap_or_else(|| self.name.to_string())
    }

    /// The arguments as a line of a configuration file, without its end. The line parses to the
    /// same arguments.
    pub fn quoted(&self) -> String {
        let quoted = |word: &String| match word.as_str() {
            // A shell may need quotes here, the parser does not.
            "!" | "%" => word.clone(),
            // The parser rejects zero bytes, which can be neither quoted nor passed to a process.
            word => shlex::try_quote(word).map(String::from).unwrap_or_default(),
        };
        self.words.iter().map(quoted).collect::<Vec<_>>().join(" ")
    }
}

/// A mistake in a line. Displayed as `FILE:LINE: REASON`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line.
    pub position: Position,
    /// The mistake, in one line.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position, self.what)
    }
}

/// A parsed file.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    /// The valid lines, in the order of the text.
    pub lines: Vec<Line>,
    /// The mistakes, in the order of the text.
    pub mistakes: Vec<Mistake>,
    /// The process-wide settings of the defaults at the end of the file, for a file without lines.
    defaults: Option<ProcessSettings>,
}

impl Conf {
    /// Formats the mistakes as `FILE:LINE: REASON`.
    pub fn wrong(&self) -> Vec<String> {
        self.mistakes.iter().map(Mistake::to_string).collect()
    }
}

/// Parses the text of a file, and the files that it includes.
pub fn read(file: &Path, text: &str, services: Services<'_>, files: &dyn Files) -> Conf {
    let mut reader = Reader {
        services,
        including: Including::new(files, file),
        sets: Sets::default(),
        command: Args::command(),
        ordinal: 0,
        conf: Conf::default(),
    };
    let defaults = reader.file(file, text, Defaults::default());
    reader.conf.defaults = defaults.args().map(|args| ProcessSettings::of(&args));
    reader.conf
}

/// The state of the parser between two lines.
struct Reader<'a> {
    services: Services<'a>,
    including: Including<'a>,
    /// The sets of all files.
    sets: Sets,
    command: clap::Command,
    ordinal: usize,
    conf: Conf,
}

impl Reader<'_> {
    /// Parses a file, with the defaults of the including file. Returns the defaults at its end.
    fn file(&mut self, file: &Path, text: &str, mut defaults: Defaults) -> Defaults {
        let file: Arc<Path> = file.into();
        for (number, text) in words::logical_lines(text) {
            let position = self.position(&file, number);
            let parsed =
                words::words(&text).and_then(|words| self.line(&position, &words, &mut defaults));
            if let Err(what) = parsed {
                self.mistake(position, what);
            }
        }
        defaults
    }

    fn line(
        &mut self,
        position: &Position,
        words: &[String],
        defaults: &mut Defaults,
    ) -> Result<(), String> {
        let Some((first, rest)) = words.split_first() else { return Ok(()) };
        match first.as_str() {
            "default" => defaults.add(rest),
            "set" => self.sets.define(rest, position, self.services),
            "include" => self.include(position, rest, defaults),
            _ => self.instance(position, words, defaults),
        }
    }

    fn include(
        &mut self,
        position: &Position,
        words: &[String],
        defaults: &Defaults,
    ) -> Result<(), String> {
        let [pattern] = words else {
            return Err("include takes one path or pattern".to_owned());
        };
        for path in self.including.find(&position.file, pattern)? {
            match self.including.enter(&path) {
                Ok(text) => {
                    self.file(&path, &text, defaults.clone());
                    self.including.leave();
                }
                Err(what) => {
                    let position = self.position(&position.file, position.number);
                    self.mistake(position, what);
                }
            }
        }
        Ok(())
    }

    fn instance(
        &mut self,
        position: &Position,
        words: &[String],
        defaults: &Defaults,
    ) -> Result<(), String> {
        let own = arguments::matches(&mut self.command, words)?;
        let mut args = arguments::args(&own)?;
        let references = |words: &[String]| words.iter().filter(|word| is_reference(word)).count();
        let port = operand::listen_port(&args.port, self.services).map_err(|e| e.to_string())?;
        if references(words) != references(&args.channels) {
            return Err(
                "@ stands for a set of servers, and not for the value of an option".to_owned()
            );
        }
        let effective: Vec<_> = defaults.apply(&own).chain(self.sets.expand(words)?).collect();
        if effective != words {
            args = arguments::args(&arguments::matches(&mut self.command, &effective)?)?;
        }
        operand::groups(&args.channels, port, self.services).map_err(|e| e.to_string())?;
        let name = InstanceName { port, bind: args.bind.clone() };
        if let Some(first) = self.conf.lines.iter().find(|other| other.name == name) {
            return Err(format!("{name} is already at {}", first.position));
        }
        if let Some(first) = self.conf.lines.first() {
            process_settings::check(&args, first)?;
        }
        // Without its defaults an instance might run as another user.
        if !defaults.has_mistake {
            self.conf.lines.push(Line { position: position.clone(), name, words: effective, args });
        }
        Ok(())
    }

    /// The position of a line or a mistake behind everything that has been parsed.
    fn position(&mut self, file: &Arc<Path>, number: usize) -> Position {
        self.ordinal += 1;
        Position { file: Arc::clone(file), number, ordinal: self.ordinal }
    }

    fn mistake(&mut self, position: Position, what: String) {
        self.conf.mistakes.push(Mistake { position, what: one_line(&what) });
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use proptest::prelude::*;

    fn services(name: &str) -> Option<u16> {
        (name == "smtp").then_some(25)
    }

    fn read(text: &str) -> Conf {
        super::read(Path::new("x"), text, &services, &NoFiles)
    }

    fn lines(text: &str) -> Vec<(usize, String)> {
        let conf = read(text);
        assert_eq!(conf.mistakes, [], "{text}");
        conf.lines.iter().map(|line| (line.position.number, line.words.join("|"))).collect()
    }

    fn mistakes(text: &str) -> Vec<(usize, String)> {
        let conf = read(text);
        conf.mistakes.into_iter().map(|mistake| (mistake.position.number, mistake.what)).collect()
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

    /// Files in memory. A pattern is a prefix of paths with `*` behind it.
    struct InMemory(Vec<(&'static str, &'static str)>);

    impl Files for InMemory {
        fn find(&self, folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
            let Some(prefix) = pattern.strip_suffix('*') else {
                return Ok(vec![folder.join(pattern)]);
            };
            let prefix = folder.join(prefix).display().to_string();
            let matching = self.0.iter().filter(|(path, _)| path.starts_with(&prefix));
            Ok(matching.map(|(path, _)| path.into()).collect())
        }

        fn text(&self, file: &Path) -> Result<String, String> {
            let found = self.0.iter().find(|(path, _)| Path::new(path) == file);
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "not there".to_owned())
        }

        fn identity(&self, file: &Path) -> PathBuf {
            file.to_owned()
        }
    }

    /// The parsed lines and the mistakes of the first file, each with its position.
    fn read_all(files: &[(&'static str, &'static str)]) -> (Vec<String>, Vec<String>) {
        let (main, text) = files[0];
        let conf = super::read(Path::new(main), text, &services, &InMemory(files.to_vec()));
        let ordinals = |position: &Position| position.ordinal;
        assert!(conf.mistakes.iter().map(|mistake| ordinals(&mistake.position)).is_sorted());
        assert!(conf.lines.iter().map(|line| ordinals(&line.position)).is_sorted());
        let line = |line: &Line| format!("{} {}", line.position, line.words.join(" "));
        (conf.lines.iter().map(line).collect(), conf.wrong())
    }

    #[test]
    fn defaults_and_sets_are_for_the_lines_below() {
        let text = "25 a\ndefault -t 5 -H\n26 a -t 6\nset x a ! @y\nset y b c:7\nset z @y %\n\
                    default -t 7\n27 @z d @y\ndefault\n28 set default include -t 8\n";
        let (lines, mistakes) = read_all(&[("x", text)]);
        assert_eq!(
            lines,
            [
                "x:1 25 a",
                "x:3 --hash-failover 26 a -t 6",
                "x:8 --connect-timeout 7 --hash-failover 27 b c:7 % d b c:7",
                "x:10 28 set default include -t 8",
            ]
        );
        assert_eq!(mistakes, ["x:4: @y: no line above defines this set"]);
    }

    #[test]
    fn no_line_runs_without_a_default_that_has_a_mistake() {
        let text = "25 a\ndefault --user x 7\n26 a\n27 a:b\ndefault\n28 a";
        let (lines, mistakes) = read_all(&[("x", text)]);
        assert_eq!(lines, ["x:1 25 a", "x:6 28 a"]);
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert_eq!(mistakes[0], "x:2: 7: default takes only options");
        assert!(mistakes[1].starts_with("x:4: server a:b: port b"), "{mistakes:?}");
    }

    #[test]
    fn a_set_stands_only_for_servers() {
        let text = "set s a b\n@s a\n25 --user @s a\n26 @t";
        let (lines, mistakes) = read_all(&[("x", text)]);
        assert_eq!(lines, [""; 0]);
        let begins =
            ["x:2: port @s: ", "x:3: @ stands for a set of servers", "x:4: @t: no line above"];
        assert_eq!(mistakes.len(), begins.len(), "{mistakes:?}");
        for (mistake, begins) in mistakes.iter().zip(begins) {
            assert!(mistake.starts_with(begins), "{mistake}");
        }
    }

    #[test]
    fn an_included_file_stands_in_the_place_of_its_line() {
        let (lines, mistakes) = read_all(&[
            ("d/main", "default -t 5\n25 a\ninclude c/*\n26 @s\ninclude none/*\n27 a\n25 b"),
            ("d/c/one", "set s x\ndefault -a\n28 b\n28 c\n"),
            ("d/c/two", "\n29 @s\n-x\n"),
        ]);
        assert_eq!(
            lines,
            [
                "d/main:2 --connect-timeout 5 25 a",
                "d/c/one:3 --autodisable --connect-timeout 5 28 b",
                "d/c/two:2 --connect-timeout 5 29 x",
                "d/main:4 --connect-timeout 5 26 x",
                "d/main:6 --connect-timeout 5 27 a",
            ]
        );
        assert_eq!(
            mistakes,
            [
                "d/c/one:4: 28 is already at d/c/one:3",
                "d/c/two:3: -x: unknown option",
                "d/main:7: 25 is already at d/main:2",
            ]
        );
    }

    #[test]
    fn a_file_that_is_missing_or_includes_itself_is_a_mistake() {
        let files = [
            ("d/main", "include b\ninclude c\ninclude\ninclude b c\n25 a"),
            ("d/b", "include main\n26 a\ninclude b"),
        ];
        let (lines, mistakes) = read_all(&files);
        assert_eq!(lines, ["d/b:2 26 a", "d/main:5 25 a"]);
        assert_eq!(
            mistakes,
            [
                "d/b:1: include d/main: the file includes itself",
                "d/b:3: include d/b: the file includes itself",
                "d/main:2: include d/c: not there",
                "d/main:3: include takes one path or pattern",
                "d/main:4: include takes one path or pattern",
            ]
        );
        let endless = [
            ("0", "include 1"),
            ("1", "include 2"),
            ("2", "include 3"),
            ("3", "include 4"),
            ("4", "include 5"),
            ("5", "include 6"),
            ("6", "include 7"),
            ("7", "include 8"),
            ("8", "include 9"),
            ("9", "25 a"),
        ];
        let (lines, mistakes) = read_all(&endless);
        assert_eq!(lines, [""; 0]);
        assert_eq!(mistakes, ["8:1: include 9: includes are nested more than 8 deep"]);
    }

    #[test]
    fn an_instance_is_named_by_port_and_address() {
        let conf = read("smtp a\n-b ::1 25 a\n25 -b localhost a");
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
            (7, "25 is already at x:1"),
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
        assert_eq!(read(text).lines.len(), 2);
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
            let conf = read(&text);
            prop_assert!(conf.lines.len() + conf.mistakes.len() <= text.lines().count());
            prop_assert!(conf.mistakes.iter().all(|mistake| !mistake.what.contains('\n')));
        }

        #[test]
        fn quoted_lines_are_parsed_back_without_defaults_and_sets(
            defaults in prop::collection::vec("(-t [1-9]|-T [1-9]|-a|--name a[a-c]|-B '[a-z# ]{1,4}')", 0..4),
            set in prop::collection::vec("[a-z]{1,3}(:[1-9])?|!|%|'[a-z #\"!]{1,4}'|[a-z]\\\\[ '#]", 1..4),
            ports in prop::collection::vec("[1-9]{1,3}( -t [1-9]| --name=b)?( @s)?( [a-z]{1,3})?", 0..5),
        ) {
            let text = format!("default {}\nset s {}\n{}", defaults.join(" "), set.join(" "), ports.join("\n"));
            let conf = read(&text);
            let printed: String = conf.lines.iter().map(|line| line.quoted() + "\n").collect();
            let again = read(&printed);
            prop_assert_eq!(again.wrong(), Vec::<String>::new());
            let key = |line: &Line| (line.name.clone(), line.words.clone(), line.args.clone());
            prop_assert!(again.lines.iter().map(key).eq(conf.lines.iter().map(key)), "{}", text);
        }

        #[test]
        fn quoted_words_are_parsed_back(words in prop::collection::vec("[a-z#'\" !%\\\\]{1,6}", 1..5)) {
            let words: Vec<String> = words.into_iter().filter(|w| w != "!" && w != "%").collect();
            let all = std::iter::once("25").chain(words.iter().map(String::as_str));
            let text = shlex::try_join(all).unwrap();
            let conf = read(&text);
            for line in &conf.lines {
                prop_assert_eq!(&line.words[1..], &words[..]);
            }
            prop_assert_eq!(conf.lines.len() + conf.mistakes.len(), 1);
        }
    }
}
