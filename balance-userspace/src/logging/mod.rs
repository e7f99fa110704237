//! The log: on standard error as text or JSON, fit for the journal when that is the reader, and
//! in syslog when the process is in the background.
//!
//! Invariants: one event is one line; in the journal it carries its priority (`<N>`,
//! sd-daemon(3)) and no time, which the journal adds itself. No thread that logs waits for the
//! reader: a thread of its own writes, and lines for which there is no room are lost and counted.

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

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard error.
    Foreground,
    /// syslog(3), and through it the journal.
    Background,
}

/// Target of messages that the classic printed, without time and level, on standard error.
pub const NOTICE: &str = "notice";

/// The longest that the end of the process is delayed by a log that is not read.
const LAST: Duration = Duration::from_secs(1);

static LINES: Queue = Queue::new();
static DUMP: Queue = Queue::new();
static SINK: OnceLock<Sink> = OnceLock::new();

/// Sets the log up for the process, once. Lines are kept until [`begin`].
pub fn init(sink: Sink, form: LogFormat, debug: bool) {
    let level = match env::var("BALANCE_LOG") {
        _ if debug => "debug".to_owned(),
        Ok(level) => level,
        Err(_) => "info".to_owned(),
    };
    // The libraries below us say nothing of use to an operator under "warn"; messages of the
    // BPF program come under its own name.
    let own = format!("balance={level},balance_userspace={level},balance_ebpf={level}");
    let rest = if level == "off" { "off" } else { "warn" };
    let filter = EnvFilter::try_new(format!("{rest},{own},{NOTICE}=info"))
        .unwrap_or_else(|_| EnvFilter::new(format!("info,{NOTICE}=info")));
    let _ = SINK.set(sink);
    // The default hook writes to standard error itself, and would wait for its reader.
    panic::set_hook(Box::new(|panic| {
        error!("{}", one_line(&panic.to_string()));
        // The process ends with its main thread.
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

/// Starts the thread that writes the log, where there is a log and none writes it yet. The thread keeps
/// the privileges that the process has at this moment.
pub(crate) fn begin() {
    let recovered = |lost| warn!(lost, "log lines lost because the log was not read");
    match SINK.get() {
        Some(Sink::Foreground) => {
            LINES.begin("log", |line| sink::write(io::stderr(), line), recovered)
        }
        Some(Sink::Background) => LINES.begin("log", sink::to_syslog, recovered),
        None => {}
    }
}

/// Log lines lost so far.
pub(crate) fn lost() -> u64 {
    LINES.lost()
}

/// Writes a piece of the packet dump on standard output, or loses it if that is not read.
pub(crate) fn dump(piece: &[u8]) {
    let recovered = |lost| warn!(lost, "packet dump lost because standard output was not read");
    DUMP.push(piece);
    DUMP.begin("dump", |piece| sink::write(io::stdout(), piece), recovered);
}

/// Waits until what was logged is written, for a second at most if it is not read.
pub fn flush() {
    begin();
    let end = Instant::now() + LAST;
    DUMP.flush(LAST);
    LINES.flush(end.saturating_duration_since(Instant::now()));
}

/// Writes a line on standard error before the process ends; waits for a second at most.
pub fn last_word(line: &str) {
    let (done, is_done) = mpsc::channel();
    let line = format!("{}\n", one_line(line));
    let text = line.clone();
    let writer = thread::Builder::new().spawn(move || {
        let _ = done.send(sink::write(io::stderr(), text.as_bytes()));
    });
    // The exit code tells as well.
    let _ = match writer {
        Ok(_) => is_done.recv_timeout(LAST).is_ok(),
        // That no thread can be made may be what there is to say.
        Err(_) => sink::write(io::stderr(), line.as_bytes()).is_ok(),
    };
}

/// Takes the line of one event, which the formatter writes whole.
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

/// One line of text.
enum Text {
    /// With time and level.
    Plain,
    /// With the priority that the journal reads.
    Journal,
    /// With the priority that [`sink::to_syslog`] reads.
    Syslog,
}

impl Text {
    fn priority(&self, level: Level) -> Option<u8> {
        let lift = match self {
            Self::Plain => return None,
            Self::Journal => 0,
            // Syslogs often drop what is below "notice".
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
