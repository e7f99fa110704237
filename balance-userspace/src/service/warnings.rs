//! What is doubtful in a configuration file but no mistake.
//!
//! Pure. Invariant: a warning keeps no line from running.

use super::conf::{Conf, Line, Mistake};

/// The warnings for the lines of a file, in the order of the text. `most` is the largest number of
/// connections that the limit of open files allows.
pub(super) fn of(conf: &Conf, most: usize) -> Vec<Mistake> {
    let warnings = conf.lines.iter().enumerate().flat_map(|(i, line)| {
        let found = [no_servers(line), name_twice(line, &conf.lines[..i]), too_many(line, most)];
        let found = found.into_iter().flatten();
        found.map(|what| Mistake { position: line.position.clone(), what })
    });
    warnings.collect()
}

fn no_servers(line: &Line) -> Option<String> {
    let is_empty = line.args.channels.is_empty();
    is_empty.then(|| format!("port {} has no servers: balance closes every client", line.name.port))
}

fn name_twice(line: &Line, above: &[Line]) -> Option<String> {
    let name = line.args.name.as_ref()?;
    let first = above.iter().find(|other| other.args.name.as_ref() == Some(name))?;
    Some(format!("--name {name}: the instance at {} has this name too", first.position))
}

fn too_many(line: &Line, most: usize) -> Option<String> {
    let wanted = line.args.max_connections?.get();
    (wanted > most).then(|| {
        format!("--max-connections {wanted}: the limit of open files allows at most {most}")
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{
        super::conf::{NoFiles, read},
        *,
    };

    #[test]
    fn each_doubtful_line_has_its_warning() {
        let text = "25\n26 a --name m --max-connections 8\n27 b --name n\n\
                    28 --name m --max-connections 9\n";
        let conf = read(Path::new("x"), text, &|_| None, &NoFiles);
        assert_eq!(conf.wrong(), [""; 0]);
        let found: Vec<_> = of(&conf, 8).iter().map(Mistake::to_string).collect();
        assert_eq!(
            found,
            [
                "x:1: port 25 has no servers: balance closes every client",
                "x:4: port 28 has no servers: balance closes every client",
                "x:4: --name m: the instance at x:2 has this name too",
                "x:4: --max-connections 9: the limit of open files allows at most 8",
            ]
        );
    }
}
