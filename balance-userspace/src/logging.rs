//! The log: on standard error as text or JSON, fit for the journal when that is the reader, and
//! in syslog when the process is in the background.
//!
//! Invariant: one event is one line; in the journal it carries its priority (`<N>`,
//! sd-daemon(3)) and no time, which the journal adds itself.

use std::{env, fmt, io};

use syslog_tracing::{Facility, Options, Syslog};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format, time::SystemTime},
    registry::LookupSpan,
};

use crate::args::LogFormat;

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

/// Sets the log up for the process, once.
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
    // A log that nobody takes is no reason to fail.
    let log = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    if sink == Sink::Background {
        if let Some(syslog) = Syslog::new(c"balance", Options::LOG_PID, Facility::Daemon) {
            let plain = log.with_writer(syslog).without_time().with_level(false);
            return plain.with_target(false).with_ansi(false).init();
        }
        return;
    }
    let log = log.with_writer(io::stderr);
    match form {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => {
            log.event_format(Text { journal: env::var_os("JOURNAL_STREAM").is_some() }).init()
        }
    }
}

/// One line of text, with the priority that the journal reads or with the time.
struct Text {
    journal: bool,
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
        if self.journal {
            let priority = match *meta.level() {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                Level::DEBUG | Level::TRACE => 7,
            };
            write!(writer, "<{priority}>")?;
        }
        if self.journal || meta.target() == NOTICE {
            plain.without_time().with_level(false).format_event(ctx, writer, event)
        } else {
            plain.with_timer(SystemTime).format_event(ctx, writer, event)
        }
    }
}
