//! Runs the transcripts of the README and of balance.conf(5) in a Debian system of their own.
//!
//! Invariant: each command prints what the document shows. Process ids, versions, numbers of bytes,
//! attempts and seconds, and the width of columns are not compared.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tests::{KillOnDrop, Namespace, Root, TIMEOUT, eventually, package, run};

/// Addresses of the servers.
const SERVERS: [(&str, &str); 2] =
    [("smtp1.example.com", "192.0.2.1"), ("smtp2.example.com", "192.0.2.2")];

/// The transcripts of a section of the README, one for each block of code.
fn readme_blocks(heading: &str) -> Vec<Vec<Step>> {
    let section = section("README.md", &format!("## {heading}"), "## ");
    let blocks = section.split("```console\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().expect("the end of a block"));
    blocks.map(steps).collect()
}

/// The transcripts of a section of balance.conf(5), one for each block without filling.
fn manual_blocks(heading: &str) -> Vec<Vec<Step>> {
    let path = "balance-userspace/manual/balance.conf.5";
    let section = section(path, &format!(".SH {heading}"), ".SH ").replace("\\-", "-");
    let blocks = section.split(".nf\n").skip(1);
    let blocks = blocks.map(|block| block.split(".fi").next().expect("the end of a block"));
    blocks.map(steps).collect()
}

/// A section of a document, from the line `heading` to the next line that begins with `next`.
fn section(document: &str, heading: &str, next: &str) -> String {
    let path = format!("{}/../{document}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).expect("the document");
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).expect("the section");
    rest.split(&format!("\n{next}")).next().unwrap_or_default().to_owned()
}

/// A command and its output.
struct Step {
    typed: String,
    printed: String,
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("# ") {
            Some(typed) => steps.push(Step { typed: typed.into(), printed: String::new() }),
            None => {
                let step = steps.last_mut().expect("something typed");
                step.printed += line;
                step.printed.push('\n');
            }
        }
    }
    steps
}

/// The text with process ids and counts replaced.
fn comparable(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let mut words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let is_row = words.get(1).is_some_and(|word| word == "running" || word == "draining");
        let is_channel = words.len() == 11 && words[0].parse::<u32>().is_ok();
        for i in 0..words.len() {
            let before = i.checked_sub(1).map(|i| words[i].clone()).unwrap_or_default();
            let is_process = i == 1 && before == "process";
            let is_pid = is_process || before == "(pid" || is_row && i == 2;
            let is_count = is_channel && (i == 7 || i > 8);
            let is_seconds = before == "for" && words.get(i + 1).is_some_and(|word| word == "s,");
            if before.ends_with("version") {
                words[i] = words[i].replace(|c: char| c.is_ascii_digit(), "N");
            } else if is_pid || is_count || is_seconds {
                let digits = words[i].trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
                assert!(digits.parse::<u64>().is_ok(), "no number in {line}");
                words[i] = words[i].replace(&digits, "N");
            }
        }
        words.join(" ")
    };
    text.lines().map(line).collect()
}

/// A mail server that greets with its name.
fn server(network: &Namespace, name: &str, address: &str) -> KillOnDrop<Child> {
    let mut command = Command::new("/usr/sbin/smtp-sink");
    command.args(["-u", "nobody", "-h", name, &format!("{address}:25"), "100"]);
    command.stdin(Stdio::null());
    let child = network.enter(|| command.spawn()).expect("starting smtp-sink");
    let child = KillOnDrop(child);
    let address: SocketAddr = format!("{address}:25").parse().expect("an address");
    eventually(TIMEOUT, "smtp-sink listens", || {
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
        network.enter(connect).map(drop).map_err(|error| error.to_string())
    });
    child
}

#[test]
fn the_transcripts_of_the_documents_are_true() {
    let (Some(package), Some(root)) = (package(), Root::unpack()) else { return };
    let servers = Namespace::new().expect("a network of its own");
    let relay = root.network();
    relay.ip(&format!(
        "link add to-servers type veth peer name to-relay netns {}\n\
         address add 192.0.2.254/24 dev to-servers\nlink set to-servers up",
        servers.path()
    ));
    servers.ip("link set to-relay up");
    for (_, address) in SERVERS {
        servers.ip(&format!("address add {address}/24 dev to-relay"));
    }
    let hosts = SERVERS.map(|(name, address)| format!("{address} {name}\n")).concat();
    root.write("/etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{hosts}"));
    root.install(&package);
    let documents = [readme_blocks("A run with two servers"), manual_blocks("EXAMPLE SESSION")];
    for blocks in documents {
        let [before, after] = &blocks[..] else {
            panic!("not two blocks, before and after a failure")
        };
        let [first, _second] = SERVERS.map(|(name, address)| server(&servers, name, address));
        replay(&root, before);
        drop(first);
        replay(&root, after);
    }
    let [start, upgrade] = &manual_blocks("UPGRADE")[..] else {
        panic!("not two blocks, before and after a client")
    };
    let _servers = SERVERS.map(|(name, address)| server(&servers, name, address));
    replay(&root, start);
    let client = relay.enter(|| TcpStream::connect("127.0.0.1:25")).expect("a connection");
    BufReader::new(&client).read_line(&mut String::new()).expect("a greeting");
    replay(&root, upgrade);
    drop(client);
    root.ends_with(0, "balance stop");
}

fn replay(root: &Root, steps: &[Step]) {
    for Step { typed, printed } in steps {
        let printed_here = if typed.starts_with("swaks ") {
            // The container has no swaks, so the command runs outside of it, in its network.
            let mut shell = Command::new("sh");
            shell.args(["-c", typed]);
            let outcome = root.network().enter(|| run(&mut shell, TIMEOUT));
            outcome.stdout + &outcome.stderr
        } else {
            root.ends_with(0, typed)
        };
        assert_eq!(comparable(&printed_here), comparable(printed), "# {typed}");
    }
}
