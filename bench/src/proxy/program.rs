//! The executables of the proxies and their command lines.
//!
//! Invariant: this module starts no proxy. For a missing executable it names the Debian package.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{StartConfig, config};
use crate::process::{Process, find};

/// The nginx module that forwards TCP, in Debian, and the package of the module.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const STREAM_PACKAGE: &str = "libnginx-mod-stream";

/// An executable with the options that make it a certain proxy.
#[derive(Clone, Debug)]
pub(super) enum Program {
    /// balance on one datapath.
    Balance { path: PathBuf, datapath: &'static str },
    /// haproxy, which moves bytes by splice(2) or through its buffers.
    Haproxy { splice: bool },
    /// nginx with its stream module.
    Nginx,
    /// pen, which has one thread only.
    Pen,
    /// A command of the user.
    Custom(Vec<String>),
}

impl Program {
    /// Parses a command with placeholders.
    pub(super) fn custom(words: &str) -> Result<Self> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let has = |mark| words.iter().any(|word| word.contains(mark));
        ensure!(has("{backend}"), "--proxy-cmd {} lacks {{backend}}", words.join(" "));
        ensure!(
            has("{listen}") || has("{port}"),
            "--proxy-cmd {} lacks {{listen}}",
            words.join(" ")
        );
        Ok(Self::Custom(words))
    }

    /// Returns the missing Debian package. For nginx these are two packages.
    pub(super) fn missing_package(&self) -> Option<&'static str> {
        let package = match self {
            Self::Haproxy { .. } => "haproxy",
            Self::Nginx if find("nginx").is_ok() => {
                return (!Path::new(STREAM_MODULE).exists()).then_some(STREAM_PACKAGE);
            }
            Self::Nginx => "nginx libnginx-mod-stream",
            Self::Pen => "pen",
            Self::Balance { .. } | Self::Custom(_) => return None,
        };
        find(package).is_err().then_some(package)
    }

    /// Returns the version, or an error if the executable is missing.
    pub(super) fn version(&self) -> Result<String> {
        match self {
            Self::Balance { path, .. } => first_line(Command::new(path).arg("--version")),
            Self::Haproxy { .. } => first_line(Command::new(find("haproxy")?).arg("-v")),
            Self::Nginx => {
                let module = Path::new(STREAM_MODULE);
                ensure!(module.exists(), "{STREAM_MODULE} is missing");
                first_line(Command::new(find("nginx")?).arg("-v"))
            }
            Self::Pen => {
                find("pen")?;
                // pen has no option that prints its version.
                let format = ["--show", "--showformat", "pen ${Version}", "pen"];
                first_line(Command::new("dpkg-query").args(format))
                    .or_else(|_| Ok("pen of unknown version".into()))
            }
            Self::Custom(words) => {
                find(&words[0])?;
                Ok(words.join(" "))
            }
        }
    }

    /// Returns the command that runs the proxy in the foreground.
    pub(super) fn command(&self, listen: SocketAddr, config: &StartConfig<'_>) -> Result<Command> {
        let (host, port) = (listen.ip().to_string(), listen.port().to_string());
        let backends = config.backends.iter().map(ToString::to_string);
        Ok(match self {
            Self::Balance { path, datapath } => {
                let mut command = Command::new(path);
                command.args(["-f", "-b", &host, "--datapath", datapath, "--grace", "0"]);
                command.args(["--workers", &config.workers.to_string(), &port]).args(backends);
                // Standard error leads to the log file and not to the journal.
                command.env_remove("JOURNAL_STREAM");
                command
            }
            Self::Haproxy { splice } => {
                let file = write(config, "haproxy.cfg", &config::haproxy(listen, config, *splice))?;
                let mut command = Command::new(find("haproxy")?);
                // `-db`: one process, in the foreground.
                command.args(["-db", "-f"]).arg(file);
                command
            }
            Self::Nginx => {
                let text = config::nginx(listen, config, Path::new(STREAM_MODULE));
                let file = write(config, "nginx.conf", &text)?;
                let mut command = Command::new(find("nginx")?);
                command.args(["-e", "stderr", "-p"]).arg(config.directory).arg("-c").arg(file);
                command
            }
            Self::Pen => {
                let connections = config.connections.to_string();
                let mut command = Command::new(find("pen")?);
                // `-b 1`: retry a dead server after one second, as haproxy does. `-c` is the number
                // of clients that pen remembers by address; here all clients have one address.
                command.args(["-f", "-r", "-b", "1", "-x", &connections, "-q", "4096"]);
                command.arg(listen.to_string()).args(backends);
                command
            }
            Self::Custom(words) => {
                let words = expand(words, listen, &backends.collect::<Vec<_>>());
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        })
    }

    /// Returns true if a listening process has also reported that it is ready.
    pub(super) fn is_ready(&self, process: &Process) -> Result<bool> {
        let Self::Balance { datapath, .. } = self else { return Ok(true) };
        let log = process.log();
        let Some(ready) = log.lines().find(|line| line.contains(" ready ")) else {
            return Ok(false);
        };
        if !ready.split_whitespace().any(|word| word.strip_prefix("datapath=") == Some(*datapath)) {
            bail!("balance is not on the datapath {datapath}: {ready}");
        }
        Ok(true)
    }
}

/// Replaces the placeholders in a command.
fn expand(words: &[String], listen: SocketAddr, backends: &[String]) -> Vec<String> {
    let mut expanded = Vec::new();
    for word in words {
        let word = word
            .replace("{listen}", &listen.to_string())
            .replace("{host}", &listen.ip().to_string())
            .replace("{port}", &listen.port().to_string());
        if word.contains("{backend}") {
            expanded.extend(backends.iter().map(|backend| word.replace("{backend}", backend)));
        } else {
            expanded.push(word);
        }
    }
    expanded
}

fn write(config: &StartConfig<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let file = config.directory.join(name);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn first_line(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {}", text.trim());
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_repeated_for_each_backend() {
        let Program::Custom(words) = Program::custom("p -l {host}:{port} to={backend} -v").unwrap()
        else {
            panic!("not a custom command");
        };
        let expanded = expand(&words, ([127, 0, 0, 1], 9).into(), &["a:1".into(), "b:2".into()]);
        assert_eq!(expanded, ["p", "-l", "127.0.0.1:9", "to=a:1", "to=b:2", "-v"]);
    }

    #[test]
    fn a_command_without_placeholders_is_rejected() {
        assert!(Program::custom("p {listen}").is_err());
        assert!(Program::custom("p {backend}").is_err());
    }
}
