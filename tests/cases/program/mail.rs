//! The main use: mail from Postfix's own test client to two of its test servers.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tests::{Balance, Builder, Client, Datapath, Sink, note, on_each_datapath, postfix_tools, run};

const MESSAGES: usize = 2000;
const PARALLEL: usize = 20;

fn two_thousand_messages_in_a_session_each_are_split_evenly(datapath: Datapath) {
    if !postfix_tools() {
        return;
    }
    let (alpha, beta, balance) = two_sinks(datapath);
    smtp_source(&balance, &[]);
    let half = MESSAGES as u64 / 2;
    for sink in [&alpha, &beta] {
        let count = sink.count_after(half);
        assert_eq!((count.sessions, count.messages), (half, half));
    }
    balance.assert_all_on_its_datapath(MESSAGES);
    let stopped = balance.stop();
    assert_eq!((stopped.connections, stopped.unserved), (MESSAGES as u64, 0));
    assert!(stopped.sent > 4000 * MESSAGES as u64, "{stopped:?}");
}

fn two_thousand_messages_in_twenty_long_sessions_are_split_evenly(datapath: Datapath) {
    if !postfix_tools() {
        return;
    }
    let (alpha, beta, balance) = two_sinks(datapath);
    // smtp-source then keeps its session open after a message.
    smtp_source(&balance, &["-d"]);
    let half = PARALLEL as u64 / 2;
    let counts = [alpha, beta].map(|sink| sink.count_after(half));
    for count in counts {
        assert_eq!(count.sessions, half, "{counts:?}");
    }
    let messages: u64 = counts.iter().map(|count| count.messages).sum();
    assert_eq!(messages, MESSAGES as u64, "{counts:?}");
    balance.assert_all_on_its_datapath(PARALLEL);
    assert_eq!(balance.stop().connections, PARALLEL as u64);
}

fn when_a_server_is_killed_only_its_own_sessions_fail(datapath: Datapath) {
    if !postfix_tools() {
        return;
    }
    let (alpha, beta, balance) = two_sinks(datapath);
    let (alpha_address, beta_address) = (alpha.address(), beta.address());
    let run = Run {
        balance: balance.address(),
        delivered: AtomicUsize::new(0),
        victim: Mutex::new(Victim { sink: Some(alpha), killed: None }),
        sessions: Mutex::new(Vec::new()),
    };
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| while run.session() {});
        }
    });
    let Killed { begun, done } = run.killed().expect("half-way, alpha was killed");
    let sessions = run.sessions.into_inner().expect("no panic");
    let logged = balance.sessions(sessions.len());
    // Sessions during which alpha was killed, and sessions that began during the kill.
    let (mut failed, mut late) = (0, 0);
    for session in &sessions {
        let log = logged.iter().find(|log| log.client == session.client);
        let log = log.unwrap_or_else(|| panic!("not in the log: {session:?}"));
        assert!(datapath.may_end_on(&log.datapath), "{log:?}");
        if session.began > done {
            assert_eq!(session.result, Ok(()), "{session:?}");
            assert_eq!(session.greeted_by.as_deref(), Some("beta"), "{session:?}");
        }
        match session.result {
            Ok(()) => assert!(log.backend == alpha_address || log.backend == beta_address),
            Err(_) => {
                *(if session.began < begun { &mut failed } else { &mut late }) += 1;
                assert_eq!(log.backend, alpha_address, "{session:?} {log:?}");
                assert_ne!(session.greeted_by.as_deref(), Some("beta"), "{session:?}");
            }
        }
    }
    note(&format!("{failed} and {late} of {} sessions failed", sessions.len()));
    // At least the session that noticed the kill, at most all concurrent sessions; the same for the
    // sessions that replaced these.
    assert!((1..=PARALLEL).contains(&failed), "{failed}");
    assert!(late <= PARALLEL, "{late}");
    assert!(run.delivered.into_inner() >= MESSAGES);
}

on_each_datapath!(
    two_thousand_messages_in_a_session_each_are_split_evenly,
    two_thousand_messages_in_twenty_long_sessions_are_split_evenly,
    when_a_server_is_killed_only_its_own_sessions_fail,
);

fn two_sinks(datapath: Datapath) -> (Sink, Sink, Balance) {
    let (alpha, beta) = (Sink::start("alpha"), Sink::start("beta"));
    let balance = Builder::new(datapath).channel(alpha.address()).channel(beta.address()).start();
    (alpha, beta, balance)
}

/// Sends the messages with `smtp-source`, which stops at the first error.
fn smtp_source(balance: &Balance, options: &[&str]) {
    let mut command = Command::new(Client::PROGRAM);
    command
        .args(["-m", &MESSAGES.to_string(), "-s", &PARALLEL.to_string()])
        .args(["-l", "4000"])
        .args(options)
        .arg(balance.address().to_string());
    let start = Instant::now();
    let outcome = run(&mut command, Duration::from_secs(90));
    assert!(outcome.status.success(), "{command:?}: {outcome:?}");
    note(&format!("{command:?} took {:?}", start.elapsed()));
}

/// Repeated sessions of a few messages each; one server is killed halfway.
struct Run {
    balance: SocketAddr,
    delivered: AtomicUsize,
    victim: Mutex<Victim>,
    sessions: Mutex<Vec<Session>>,
}

/// The time of the kill.
#[derive(Clone, Copy)]
struct Killed {
    begun: Instant,
    done: Instant,
}

struct Victim {
    sink: Option<Sink>,
    /// A time at which the server was certainly gone.
    killed: Option<Killed>,
}

#[derive(Debug)]
struct Session {
    client: SocketAddr,
    began: Instant,
    greeted_by: Option<String>,
    result: Result<(), String>,
}

impl Run {
    /// Runs one session and records it; false when enough messages have been delivered.
    fn session(&self) -> bool {
        if self.delivered.load(Ordering::Relaxed) >= MESSAGES {
            return false;
        }
        let began = Instant::now();
        let client = Client::connect(self.balance);
        let mut session =
            Session { client: client.address, began, greeted_by: None, result: Ok(()) };
        let result = self.deliver_messages(client, &mut session.greeted_by);
        session.result = result.map_err(|error| error.to_string());
        self.sessions.lock().expect("no panic").push(session);
        true
    }

    fn deliver_messages(
        &self,
        mut client: Client,
        greeted_by: &mut Option<String>,
    ) -> std::io::Result<()> {
        let body = "All work and no play.\r\n".repeat(100);
        let name = greeted_by.insert(client.greeting()?);
        for _ in 0..4 {
            client.deliver(&body)?;
            let delivered = self.delivered.fetch_add(1, Ordering::Relaxed) + 1;
            if delivered >= MESSAGES / 2 && name == "alpha" {
                self.kill();
                // This session's server was killed, so the session must fail.
            }
        }
        client.quit()
    }

    /// Kills alpha once.
    fn kill(&self) {
        let mut victim = self.victim.lock().expect("no panic");
        if let Some(mut sink) = victim.sink.take() {
            let begun = Instant::now();
            sink.kill();
            victim.killed = Some(Killed { begun, done: Instant::now() });
        }
    }

    fn killed(&self) -> Option<Killed> {
        self.victim.lock().expect("no panic").killed
    }
}
