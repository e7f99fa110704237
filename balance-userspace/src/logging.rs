//! The log on standard error: text or JSON, and fit for the journal when it is the reader.
//!
//! Invariant: one event is one line; in the journal it carries its priority (`<N>`,
//! sd-daemon(3)) and no time, which the journal adds itself.

use std::{env, fmt, io};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format, time::SystemTime},
    registry::LookupSpan,
};

use crate::args::LogFormat;

/// Sets the log up for the process, once.
pub fn init(form: LogFormat, debug: bool) {
    let level = if debug { "debug" } else { "info" };
    // The libraries below us say nothing of use to an operator under "warn"; aya_log carries
    // the BPF program's own messages.
    let filter = EnvFilter::new(format!(
        "warn,balance={level},balance_userspace={level},balance_ebpf={level}"
    ));
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter);
    let journal = env::var_os("JOURNAL_STREAM").is_some();
    match form {
        LogFormat::Json => log.json().init(),
        LogFormat::Text if journal => log.event_format(Journal).init(),
        LogFormat::Text => log.with_target(false).with_timer(SystemTime).with_ansi(false).init(),
    }
}

/// Text with the priority that the journal reads.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
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
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        format()
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(false)
            .format_event(ctx, writer, event)
    }
}
