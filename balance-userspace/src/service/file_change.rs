//! Whether the configuration file has changed since the supervisor loaded it.
//!
//! Pure. Invariant: comments, the order of lines and the division into files are no change.

use super::conf::{Conf, Line};
use crate::control::protocol::SupervisorStatus;

/// A change of the file that no reload has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileChange {
    /// A reload applies the change.
    Pending,
    /// A reload changes nothing, because the file has a mistake.
    Mistake,
}

/// Compares the lines of a supervisor with the file.
pub(super) fn of(running: &SupervisorStatus, file: &Conf) -> Option<FileChange> {
    let mut loaded: Vec<&[String]> =
        running.instances.iter().map(|row| &*row.words).filter(|words| !words.is_empty()).collect();
    let mut wanted: Vec<&[String]> = file.lines.iter().map(|line: &Line| &*line.words).collect();
    loaded.sort_unstable();
    wanted.sort_unstable();
    let wrong = file.wrong();
    match (loaded == wanted && wrong == running.wrong, wrong.is_empty()) {
        (true, _) => None,
        (false, true) => Some(FileChange::Pending),
        (false, false) => Some(FileChange::Mistake),
    }
}

impl FileChange {
    /// The change in words.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Pending => "the file has changed since it was loaded; balance reload applies it",
            Self::Mistake => {
                "the file has changed since it was loaded and has a mistake; balance check reports it"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        control::protocol::{InstanceRow, InstanceState},
        service::conf::{self, NoFiles},
    };

    fn parsed(text: &str) -> Conf {
        conf::read(Path::new("x"), text, &|_| None, &NoFiles)
    }

    fn running(text: &str) -> SupervisorStatus {
        let conf = parsed(text);
        let row = |name: String, words: Vec<String>| InstanceRow {
            name,
            given_name: None,
            words,
            state: InstanceState::Running,
            pid: None,
            socket: None,
            connections: 0,
            status: String::new(),
        };
        let lines = conf.lines.iter().map(|line| row(line.name.to_string(), line.words.clone()));
        // A draining instance without a line.
        let instances = lines.chain([row("24".to_owned(), Vec::new())]).collect();
        SupervisorStatus {
            version: String::new(),
            processes: Vec::new(),
            foreground: false,
            began: 0,
            settled: true,
            stopping: false,
            wrong: conf.wrong(),
            instances,
        }
    }

    #[test]
    fn a_change_of_a_line_is_told_and_one_of_a_comment_is_not() {
        let loaded = running("25 a # comment\n26 a\n");
        for (text, expected) in [
            ("25 a # comment\n26 a\n", None),
            ("# other\n26   a\ndefault -H\n", Some(FileChange::Pending)),
            ("\n26 a\n25 a", None),
            ("25 a", Some(FileChange::Pending)),
            ("25 a\n26 a\n27 a", Some(FileChange::Pending)),
            ("25 a\n26 a -t 7", Some(FileChange::Pending)),
            ("25 a\n26 a\n27 :", Some(FileChange::Mistake)),
        ] {
            assert_eq!(of(&loaded, &parsed(text)), expected, "{text}");
        }
        let with_mistake = "25 a\n26 :\n";
        assert_eq!(of(&running(with_mistake), &parsed(with_mistake)), None);
        assert_eq!(of(&running(with_mistake), &parsed("25 a\n")), Some(FileChange::Pending));
    }
}
