//! What is doubtful in a configuration file but no mistake.
//!
//! Pure. Invariant: a warning keeps no line from running.

use super::conf::{Conf, Line, Mistake};

/// The warnings for the lines of a file, in the order of the text. `most` is the largest number of
/// connections that the limit of open files allows.
pub(super) fn of(conf: &Conf, most: usize) -> Vec<Mistake> {
    let too_many = too_many(&conf.lines, most);
    let warnings = conf.lines.iter().enumerate().flat_map(|(i, line)| {
        let sum_here = too_many.as_ref().filter(|(at, _)| *at == i).map(|(_, what)| what.clone());
        let found = [no_servers(line), name_twice(line, &conf.lines[..i]), sum_here];
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

/// The warning if the instances want more connections than possible, because one process serves
/// all. Also returns the index of the line with which the sum exceeds the limit.
fn too_many(lines: &[Line], most: usize) -> Option<(usize, String)> {
    let wanted = lines.iter().enumerate();
    let wanted = wanted.filter_map(|(i, line)| Some((i, line.args.max_connections?.get())));
    let sums = wanted.scan((0, 0_usize), |(count, sum), (i, wanted)| {
        (*count, *sum) = (*count + 1, sum.saturating_add(wanted));
        Some((i, *count, *sum))
    });
    let sums: Vec<_> = sums.collect();
    let (at, ..) = sums.iter().find(|(.., sum)| *sum > most)?;
    let allowed = format!("the limit of open files allows at most {most}");
    let what = match sums.last()? {
        (_, 1, sum) => format!("--max-connections {sum}: {allowed}"),
        (_, count, sum) => {
            format!("--max-connections: {sum} in {count} instances together, {allowed}")
        }
    };
    Some((*at, what))
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
                "x:4: --max-connections: 17 in 2 instances together, the limit of open files allows \
                 at most 8",
            ]
        );
    }
    #[test]
    fn the_sum_of_the_connections_is_told_once() {
        let told = |text: &str, most: usize| -> Vec<String> {
            let conf = read(Path::new("x"), text, &|_| None, &NoFiles);
            of(&conf, most).iter().map(Mistake::to_string).collect()
        };
        let text = "25 a --max-connections 5\n26 a\n27 a --max-connections 4\n\
                    28 a --max-connections 3\n";
        assert_eq!(told(text, 12), [""; 0]);
        let limit = "12 in 3 instances together, the limit of open files allows at most";
        assert_eq!(told(text, 8), [format!("x:3: --max-connections: {limit} 8")]);
        assert_eq!(told(text, 4), [format!("x:1: --max-connections: {limit} 4")]);
        assert_eq!(
            told("25 a\n26 a --max-connections 9\n", 8),
            ["x:2: --max-connections 9: the limit of open files allows at most 8"]
        );
    }
}
