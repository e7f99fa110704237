//! Instances whose server names take long to resolve.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    process::{Command, Stdio},
    thread,
};

use tests::{Backend, ReservedPort, Service, TIMEOUT, ask, eventually, finish, is_listening, skip};

/// A name server that answers when the test says so.
struct NameServer(UdpSocket);

impl NameServer {
    /// Takes port 53 of a loopback address; `None` if this user may not.
    fn new() -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            skip("another resolv.conf needs root");
            return None;
        }
        let address: SocketAddr = ([127, 53, 53, 53], 53).into();
        match UdpSocket::bind(address) {
            Ok(socket) => {
                socket.set_read_timeout(Some(TIMEOUT)).expect("a read timeout");
                Some(Self(socket))
            }
            Err(error) => {
                skip(&format!("cannot be a name server: {error}"));
                None
            }
        }
    }

    /// Waits for a question.
    fn question(&self) -> (Vec<u8>, SocketAddr) {
        let mut packet = [0; 512];
        let (length, client) = self.0.recv_from(&mut packet).expect("a question");
        (packet[..length].to_vec(), client)
    }

    /// Answers a question: for an IPv4 address with 127.0.0.1, else with no address.
    fn answer(&self, (question, client): (Vec<u8>, SocketAddr)) {
        // RFC 1035: a header of 12 bytes, then the name, its type and its class.
        let end = 12 + question[12..].iter().position(|&byte| byte == 0).expect("a name") + 5;
        let is_ipv4 = question[end - 4..end - 2] == [0, 1];
        let mut packet = question[..end].to_vec();
        // A response, recursion available; one question, one or no answer, nothing else.
        packet[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
        if is_ipv4 {
            // The name above, type A, class IN, 60 seconds, 4 bytes.
            packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        self.0.send_to(&packet, client).expect("an answer");
    }
}

/// The number of descriptors of a process.
fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("/proc").count()
}

#[test]
fn an_instance_removed_while_its_server_is_looked_up_leaves_nothing() {
    let Some(names) = NameServer::new() else { return };
    let a = Backend::greeter("A");
    let (one, slow) = (ReservedPort::new(), ReservedPort::new());
    let line = |port: &ReservedPort, host: &str| {
        let (port, server) = (port.port(), a.address().port());
        format!("--datapath relay -b 127.0.0.1 {port} {host}:{server}\n")
    };
    let stays = line(&one, "127.0.0.1");
    let service = Service::new(&(stays.clone() + &line(&slow, "slow.test")));
    let resolver = service.file().with_file_name("resolv.conf");
    fs::write(&resolver, "nameserver 127.53.53.53\noptions timeout:30 attempts:1\n")
        .expect("writing a file");
    let start = service.command(&["start", "-f"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-e", "-c"]);
    command.arg("mount --bind \"$0\" /etc/resolv.conf; exec \"$@\"").arg(&resolver);
    command.arg(start.get_program()).args(start.get_args());
    let mut child = command.stdin(Stdio::null()).spawn().expect("starting balance");

    let first = names.question();
    let rows = service.status_when("one runs", |rows| rows[0].state == "running");
    assert_eq!((rows.len(), &*rows[1].state), (2, "starting"));
    let pid = rows[0].pid.expect("a process");
    thread::scope(|scope| {
        service.write(&stays);
        let reload = scope.spawn(|| service.run_ok(&["reload"]));
        service
            .status_when("the line is gone", |rows| rows.iter().all(|row| row.state != "starting"));
        names.answer(first);
        // The resolver asks for IPv4 and IPv6 addresses.
        names.answer(names.question());
        let name = format!("127.0.0.1:{}", slow.port());
        let told = reload.join().expect("the verb");
        assert_eq!(told, format!("{name}: stopped\nbalance is reloaded\n"));
    });
    let rows = service.status_when("one row is left", |rows| rows.len() == 1);
    assert_eq!((&*rows[0].state, rows[0].pid), ("running", Some(pid)));
    assert!(!is_listening(slow.port()));
    let name = format!("balance.{}.127.0.0.1", slow.port());
    let files = fs::read_dir(service.run_dir()).expect("the run directory").flatten();
    let files = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let left: Vec<_> = files.filter(|file| file.starts_with(&name)).collect();
    assert_eq!(left, [format!("{name}.lock")]);
    assert_eq!(ask(one.address()).expect("an answer"), "A");

    // The line can return. Once it is removed again, the process has the same descriptors.
    let before = descriptors(pid);
    thread::scope(|scope| {
        service.write(&(stays.clone() + &line(&slow, "slow.test")));
        let reload = scope.spawn(|| service.run_ok(&["reload"]));
        names.answer(names.question());
        names.answer(names.question());
        reload.join().expect("the verb");
    });
    assert_eq!(ask(slow.address()).expect("an answer"), "A");
    service.write(&stays);
    service.run_ok(&["reload"]);
    eventually(TIMEOUT, "its descriptors are closed", || match descriptors(pid) {
        now if now <= before => Ok(()),
        now => Err(format!("{now}, before {before}")),
    });
    service.run_ok(&["stop"]);
    assert!(finish(&mut child, TIMEOUT, "the supervisor").success());
}
