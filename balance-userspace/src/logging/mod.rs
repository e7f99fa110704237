//! The log: text or JSON on standard error, or syslog for a daemon. Text for the journal has the
//! form that the journal expects.
//!
//! Invariants: one event is one line. In the journal a line has a priority (`<N>`, sd-daemon(3))
//! and no time, because the journal adds the time. A thread that logs never waits for the reader: a
//! separate thread writes, and lines that do not fit into the queue are dropped and counted.

use std::{
    env, fmt, io, panic,
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::syslog::{Facility, LogFlags, openlog};
use tracing::{Event, Level, Subscriber, error, warn};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format, time::SystemTime},
    registry::LookupSpan,
};

use crate::{cli::args::LogFormat, error::one_line};

mod queue;
mod sink;

use queue::Queue;

/// The destination of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard error.
    Foreground,
    /// syslog(3), which also feeds the journal.
    Background,
}

/// The target of messages that the classic also prints: on standard error, without time and level.
pub const NOTICE: &str = "notice";

/// The longest time that an unread log delays the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static LINES: Queue = Queue::new();
static DUMP: Queue = Queue::new();
static SINK: OnceLock<Sink> = OnceLock::new();

/// Sets up the log of the process. Call this once. Lines wait in the queue until [`start_writer`].
pub fn init(sink: Sink, form: LogFormat, debug: bool) {
    let level = match env::var("BALANCE_LOG") {
        _ if debug => "debug".to_owned(),
        Ok(level) => level,
        Err(_) => "info".to_owned(),
    };
    // Messages of libraries below "warn" are of no use to an operator. Messages of the BPF programs
    // have the target `balance_ebpf`.
    let own = format!("balance={level},balance_userspace={level},balance_ebpf={level}");
    let rest = if level == "off" { "off" } else { "warn" };
    let filter = EnvFilter::try_new(format!("{rest},{own},{NOTICE}=info"))
        .unwrap_or_else(|_| EnvFilter::new(format!("info,{NOTICE}=info")));
    let _ = SINK.set(sink);
    // The default hook writes to standard error itself and would wait for the reader.
    panic::set_hook(Box::new(|panic| {
        error!("{}", one_line(&panic.to_string()));
        // The process ends with the main thread.
        if thread::current().name() == Some("main") {
            flush();
        }
    }));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(|| Line);
    let text = match (sink, form) {
        (Sink::Foreground, LogFormat::Json) => return log.json().init(),
        (Sink::Foreground, LogFormat::Text) if env::var_os("JOURNAL_STREAM").is_none() => {
            Text::Plain
        }
        (Sink::Foreground, LogFormat::Text) => Text::Journal,
        (Sink::Background, _) => {
            let _ = openlog(Some(c"balance"), LogFlags::LOG_PID, Facility::LOG_DAEMON);
            Text::Syslog
        }
    };
    log.event_format(text).init();
}

/// Starts the thread that writes the log, unless it runs already or [`init`] has not been called.
/// The thread keeps the privileges that the process has at this moment.
pub(crate) fn start_writer() {
    let recovered = |lost| warn!(lost, "log lines lost because the log was not read");
    match SINK.get() {
        Some(Sink::Foreground) => {
            LINES.start_writer("log", |line| sink::write(io::stderr(), line), recovered)
        }
        Some(Sink::Background) => LINES.start_writer("log", sink::to_syslog, recovered),
        None => {}
    }
}

/// The number of log lines lost so far.
pub(crate) fn lost() -> u64 {
    LINES.lost()
}

/// Queues a piece of the packet dump for standard output. The piece is lost if the queue is full.
pub(crate) fn dump(piece: &[u8]) {
    let recovered = |lost| warn!(lost, "packet dump lost because standard output was not read");
    DUMP.push(piece);
    DUMP.start_writer("dump", |piece| sink::write(io::stdout(), piece), recovered);
}

/// Waits until all logged lines are written, for a second at most if nothing reads the log.
pub fn flush() {
    start_writer();
    let end = Instant::now() + FLUSH_TIMEOUT;
    DUMP.flush(FLUSH_TIMEOUT);
    LINES.flush(end.saturating_duration_since(Instant::now()));
}

/// Writes a line on standard error before the process ends. Waits for a second at most.
pub fn write_final_line(line: &str) {
    let (done, is_done) = mpsc::channel();
    let line = format!("{}\n", one_line(line));
    let text = line.clone();
    let writer = thread::Builder::new().spawn(move || {
        let _ = done.send(sink::write(io::stderr(), text.as_bytes()));
    });
    // A failure is ignored: the exit code reports the error as well.
    let _ = match writer {
        Ok(_) => is_done.recv_timeout(FLUSH_TIMEOUT).is_ok(),
        // The line may report that no thread can be created.
        Err(_) => sink::write(io::stderr(), line.as_bytes()).is_ok(),
    };
}

/// Queues the line of one event. The formatter writes a line with one call.
struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The form of a text line.
enum Text {
    /// With time and level.
    Plain,
    /// With the priority for the journal.
    Journal,
    /// With the priority for [`sink::to_syslog`].
    Syslog,
}

impl Text {
    fn priority(&self, level: Level) -> Option<u8> {
        let lift = match self {
            Self::Plain => return None,
            Self::Journal => 0,
            // Syslog daemons often drop messages below "notice".
            Self::Syslog => 1,
        };
        Some(match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6 - lift,
            Level::DEBUG => 7 - lift,
            Level::TRACE => 7,
        })
    }
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        let plain = format().with_target(false).with_ansi(false);
        let priority = self.priority(*meta.level());
        if let Some(priority) = priority {
            write!(writer, "<{priority}>")?;
        }
        if priority.is_some() || meta.target() == NOTICE {
            plain.without_time().with_level(false).format_event(ctx, writer, event)
        } else {
            plain.with_timer(SystemTime).format_event(ctx, writer, event)
        }
    }
}
