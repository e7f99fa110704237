//! The model: the output of a running balance and its control client for a script.
//!
//! Invariant: the model follows the classic's manual and not the program. A command that fails
//! changes nothing and ends its line.

use std::net::SocketAddr;

use super::commands::{ChannelName, Meaning, TargetAddress, TypedCommand};

/// Number of groups that the shell can select.
const GROUPS: i64 = 32;
const VERSION: &str = "  This is balance 3.57\n  MAXGROUPS=32\n  MAXCHANNELS=64\n";
const HEADER: &str =
    "GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd\n";
const SESSIONS: &str = "client  channel  source  backend  age  sent  rcvd  datapath\n";

#[derive(Clone, Copy, Debug)]
struct Channel {
    enabled: bool,
    address: SocketAddr,
    total: u64,
    max: i64,
    rcvd: u64,
}

#[derive(Clone, Debug, Default)]
struct Group {
    hash: bool,
    channels: Vec<Channel>,
}

/// The groups of a balance without open connections, and its control client.
#[derive(Debug)]
pub(crate) struct Model<'h> {
    pid: u32,
    help: &'h str,
    groups: Vec<Group>,
    current: i64,
}

/// How the script continues after a command.
enum Next {
    Continue,
    /// Skips the rest of the line.
    Failed,
    Quit,
}

impl<'h> Model<'h> {
    /// Two groups with one channel each; the first channel has served a byte to `visits` clients.
    pub(crate) fn new(pid: u32, visits: u64, server: SocketAddr, help: &'h str) -> Self {
        let first = Channel { enabled: true, address: server, total: visits, max: 0, rcvd: visits };
        let second = Channel { total: 0, max: 7, rcvd: 0, ..first };
        let groups = vec![
            Group { hash: false, channels: vec![first] },
            Group { hash: true, channels: vec![second] },
        ];
        Self { pid, help, groups, current: 0 }
    }

    /// Output and exit code of one strict command.
    pub(crate) fn once(&mut self, line: &[TypedCommand]) -> (String, i32) {
        let mut output = String::new();
        let then = self.line(line, &mut output);
        (output, i32::from(matches!(then, Next::Failed)))
    }

    /// Output of a shell.
    pub(crate) fn shell(&mut self, script: &[Vec<TypedCommand>]) -> String {
        let mut output = format!(
            "\nbalance 3.57 interactive command shell\nPID of master process is {}\n\n",
            self.pid
        );
        for line in script {
            output += &self.prompt();
            if matches!(self.line(line, &mut output), Next::Quit) {
                return output;
            }
        }
        output + &self.prompt() + "\n"
    }

    /// Output of `show`.
    pub(crate) fn show(&self) -> String {
        let mut text = HEADER.to_owned();
        for (g, group) in self.groups.iter().enumerate() {
            let method = if group.hash { "Hash" } else { "RR" };
            for (n, channel) in group.channels.iter().enumerate() {
                let Channel { enabled, address, total, max, rcvd } = *channel;
                let state = if enabled { "ENA" } else { "dis" };
                let (ip, port) = (address.ip().to_string(), address.port());
                text += &format!(
                    "{g:>3} {method:>4} {n:>2} {state:>3} {ip:>16} {port:>5} {c:>4} {total:>11} \
                     {max:>4} {sent:>11} {rcvd:>11}\n",
                    c = 0,
                    sent = 0,
                );
            }
        }
        text
    }

    fn prompt(&self) -> String {
        format!("balance[{}] ", self.current)
    }

    fn line(&mut self, line: &[TypedCommand], output: &mut String) -> Next {
        for say in line {
            let (text, then) = self.execute(&say.meaning);
            *output += &text;
            if !matches!(then, Next::Continue) {
                return then;
            }
        }
        Next::Continue
    }

    fn execute(&mut self, meaning: &Meaning) -> (String, Next) {
        let well = |text: String| (text, Next::Continue);
        let result = match meaning {
            Meaning::Nothing => return well(String::new()),
            Meaning::Quit => return (String::new(), Next::Quit),
            Meaning::Help => return well(self.help.to_owned()),
            Meaning::Version => return well(VERSION.to_owned()),
            Meaning::Show => return well(self.show()),
            Meaning::Sessions => return well(SESSIONS.to_owned()),
            Meaning::Group(group @ 0..GROUPS) => {
                self.current = *group;
                return well(String::new());
            }
            Meaning::Bytes(group, channel) => self
                .graphed(*group, *channel)
                .map(|c| format!("{}\n0\nUNKNOWN\ngroup {group} channel {channel}", c.rcvd)),
            Meaning::Connections(group, channel) => self
                .graphed(*group, *channel)
                .map(|c| format!("{}\nUNKNOWN\nUNKNOWN\ngroup {group} channel {channel}", c.total)),
            Meaning::Wrong => Err("syntax error".to_owned()),
            Meaning::Group(_) | Meaning::OutOfRange => Err("value out of range".to_owned()),
            Meaning::Enable(name) => self.set_enabled(name, true),
            Meaning::Disable(name) => self.set_enabled(name, false),
            Meaning::Reset(name) => self.existing(name).map(|channel| {
                (channel.total, channel.rcvd) = (0, 0);
                format!("channel {} counters reset", name.label())
            }),
            Meaning::Drain(name) => self.existing(name).map(|channel| {
                channel.enabled = false;
                format!("channel {} drained", name.label())
            }),
            Meaning::Drop(name) => self
                .existing(name)
                .map(|_| format!("channel {} dropped 0 connections", name.label())),
            Meaning::Create(to) => self.create(to.as_ref()),
            Meaning::Assign(name, to) => self.assign(name, to.as_ref()),
            Meaning::Max(_, None) => Err("syntax error".to_owned()),
            Meaning::Max(name, Some(max)) => self.set_max(name, *max),
            Meaning::Hash(hash) => {
                self.group().hash = *hash;
                let method = if *hash { "hash" } else { "round robin" };
                Ok(format!("group {} set to {method}", self.current))
            }
        };
        match result {
            Ok(text) => well(text + "\n"),
            Err(text) => (text + "\n", Next::Failed),
        }
    }

    fn set_enabled(&mut self, name: &ChannelName, enabled: bool) -> Result<String, String> {
        let channel = self.existing(name)?;
        let already = if channel.enabled == enabled { "already " } else { "" };
        channel.enabled = enabled;
        let state = if enabled { "enabled" } else { "disabled" };
        Ok(format!("channel {} {already}{state}", name.label()))
    }

    fn create(&mut self, to: Option<&TargetAddress>) -> Result<String, String> {
        let address = Self::address(to)?;
        let channel = Channel { enabled: false, address, total: 0, max: 0, rcvd: 0 };
        self.group().channels.push(channel);
        Ok("channel created".to_owned())
    }

    fn assign(&mut self, name: &ChannelName, to: Option<&TargetAddress>) -> Result<String, String> {
        let address = Self::address(to);
        let channel = self.find(name).ok_or("unknown channel")?;
        if channel.enabled {
            return Err("channel must be disabled to assign new address".to_owned());
        }
        channel.address = address?;
        Ok("channel reassigned".to_owned())
    }

    fn set_max(&mut self, name: &ChannelName, max: i64) -> Result<String, String> {
        // A negative number names no channel, and is checked before the maximum.
        let negative = name.channel < 0 || name.group.is_some_and(|group| group < 0);
        if !negative && u32::try_from(max).is_err() {
            return Err("value out of range".to_owned());
        }
        self.find(name).ok_or("unknown channel")?.max = max;
        Ok(format!("maxc of channel {} changed to {max}", name.label()))
    }

    fn address(to: Option<&TargetAddress>) -> Result<SocketAddr, String> {
        let TargetAddress(ip, port) = to.ok_or("invalid address")?;
        Ok(SocketAddr::new(*ip, *port))
    }

    fn existing(&mut self, name: &ChannelName) -> Result<&mut Channel, String> {
        self.find(name).ok_or_else(|| format!("no such channel {}", name.label()))
    }

    fn find(&mut self, name: &ChannelName) -> Option<&mut Channel> {
        if name.is_name() {
            return None;
        }
        let group = usize::try_from(name.group.unwrap_or(self.current)).ok()?;
        let channel = usize::try_from(name.channel).ok()?;
        self.groups.get_mut(group)?.channels.get_mut(channel)
    }

    fn graphed(&self, group: i64, channel: i64) -> Result<&Channel, String> {
        let none = "unknown group".to_owned();
        let group = usize::try_from(group).map_err(|_| none.clone())?;
        let group = self.groups.get(group).ok_or(none)?;
        let channel = usize::try_from(channel).ok().and_then(|n| group.channels.get(n));
        channel.ok_or_else(|| "unknown channel".to_owned())
    }

    /// The current group, created with all groups before it if necessary.
    fn group(&mut self) -> &mut Group {
        let current = usize::try_from(self.current).expect("a group to change to");
        if self.groups.len() <= current {
            self.groups.resize_with(current + 1, Group::default);
        }
        &mut self.groups[current]
    }
}

impl ChannelName {
    /// The channel as the output repeats it.
    fn label(&self) -> String {
        match self.group {
            _ if self.is_name() => self.word.clone(),
            Some(group) => format!("{group}.{}", self.channel),
            None => self.channel.to_string(),
        }
    }
}
