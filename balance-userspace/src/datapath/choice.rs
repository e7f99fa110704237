//! Chooses the datapath of the process: that of the command line, or the best that works here.
//!
//! Invariant: a kernel datapath is chosen only after it has passed its self-test. The reason of the
//! choice names every datapath that failed, and its error.

use std::{fmt, time::Duration};

use super::{dispatch::Datapath, offload::object::LoadError, sockmap, splice};
use crate::{
    cli::args::{self, Args},
    error::StartError,
};

/// A loaded datapath, and why it was chosen.
pub(crate) struct Choice {
    pub(crate) datapath: Datapath,
    pub(crate) reason: String,
}

impl Choice {
    /// Loads the datapath of the command line for `connections` connections at the same time, and
    /// the datapaths that it falls back to. `auto` takes the best that passes its self-test.
    ///
    /// # Errors
    /// When the command line names a datapath that does not work here.
    pub(crate) fn load(args: &Args, connections: usize) -> Result<Self, StartError> {
        if args.dump {
            return Ok(Self::relay(args, "-p shows the bytes, so they pass through user space"));
        }
        match args.datapath {
            args::Datapath::Relay => Ok(Self::relay(args, "--datapath relay")),
            args::Datapath::Sockmap => {
                Self::sockmap(args, connections).map_err(|e| e.into_start_error("sockmap"))
            }
            args::Datapath::Splice => {
                Self::splice(args, connections).map_err(|e| e.into_start_error("splice"))
            }
            args::Datapath::Auto => Ok(Self::best(args, connections)),
        }
    }

    fn best(args: &Args, connections: usize) -> Self {
        let no_splice = match Self::splice(args, connections) {
            Ok(choice) => return choice,
            Err(error) => error.to_string(),
        };
        let no_sockmap = match Self::sockmap(args, connections) {
            Ok(choice) => return choice.with_reason(&format!("no splice: {no_splice}")),
            Err(error) => error.to_string(),
        };
        if no_splice == no_sockmap {
            return Self::relay(args, &format!("no splice and no sockmap: {no_splice}"));
        }
        Self::relay(args, &format!("no splice: {no_splice}; no sockmap: {no_sockmap}"))
    }

    fn relay(args: &Args, reason: &str) -> Self {
        Self { datapath: Datapath::Relay { dump: args.dump }, reason: reason.to_owned() }
    }

    fn sockmap(args: &Args, connections: usize) -> Result<Self, LoadError> {
        let (kernel, took) = sockmap::start(connections, args.debug)?;
        let datapath = Datapath::Sockmap { kernel, after: args.offload_after };
        Ok(Self { datapath, reason: passed(took) })
    }

    fn splice(args: &Args, connections: usize) -> Result<Self, LoadError> {
        let (kernel, took) = splice::start(connections, args.debug)?;
        let after = args.offload_after;
        let splice = |next| Self {
            datapath: Datapath::Splice { kernel, after, next: Box::new(next) },
            reason: passed(took),
        };
        Ok(match Self::sockmap(args, connections) {
            Ok(next) => splice(next.datapath),
            Err(error) => {
                splice(Datapath::Relay { dump: false }).with_reason(&format!("no sockmap: {error}"))
            }
        })
    }

    fn with_reason(mut self, reason: &str) -> Self {
        self.reason = format!("{}; {reason}", self.reason);
        self
    }
}

fn passed(took: Duration) -> String {
    format!("self-test passed in {}", Millis(took))
}

/// A duration in whole milliseconds, at least one.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0.as_millis().max(1))
    }
}
