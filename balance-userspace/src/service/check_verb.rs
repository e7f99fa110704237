//! The verb `check`.
//!
//! Invariants:
//! - Mistakes and warnings are printed in the order of the text.
//! - `--print` prints a file that parses to the same lines, or nothing.

use std::path::Path;

use super::{
    check,
    conf::{Conf, Mistake},
    output::{WRONG, plural, print, print_error, print_unchanged},
    running::absolute,
    upgrade_state, warnings,
};
use crate::{
    cli::CheckOptions,
    control::run_dir::{RunDir, RunDirError},
    error::StartError,
    process::connection_limits,
};

/// Checks a file, and returns the exit code.
pub(super) fn check(options: &CheckOptions) -> Result<u8, StartError> {
    upgrade_state::examine()?;
    let file = options.file.as_ref().unwrap_or(&options.config);
    let conf = check::read(file)?;
    let mut mistakes = check::all(&conf, !options.no_dns);
    let mut run_dir_error = None;
    if let Some(path) = &options.run_dir {
        let (error, too_long) = run_dir(path, file, &conf);
        run_dir_error = error;
        mistakes.extend(too_long);
    }
    let warnings = warnings::of(&conf, connection_limits::most());
    let (mistake_count, warning_count) = (mistakes.len(), warnings.len());
    let warning =
        |Mistake { position, what }| Mistake { position, what: format!("warning: {what}") };
    mistakes.extend(warnings.into_iter().map(warning));
    mistakes.sort_by_key(|mistake| mistake.position.ordinal);
    mistakes.iter().for_each(|mistake| print_error(&mistake.to_string()));
    if let Some(error) = &run_dir_error {
        print_error(&error.to_string());
    }
    if mistake_count > 0 || options.strict && warning_count > 0 {
        return Ok(WRONG);
    }
    if let Some(error) = run_dir_error {
        return Ok(error.exit_code());
    }
    if options.print {
        conf.lines.iter().for_each(|line| print_unchanged(&line.quoted()));
        return Ok(0);
    }
    let result = match warning_count {
        0 => "nothing wrong".to_owned(),
        count => plural(count, "warning"),
    };
    print(&format!("{}: {}, {result}", file.display(), plural(conf.lines.len(), "instance")));
    Ok(0)
}

/// Whether the run directory can be used: the error of the directory, and the lines whose control
/// socket has no valid path.
fn run_dir(path: &Path, file: &Path, conf: &Conf) -> (Option<RunDirError>, Vec<Mistake>) {
    let dir = match RunDir::locate(Some(path)) {
        Ok(dir) => dir,
        Err(error) => return (Some(error), Vec::new()),
    };
    let error = dir.examine().and_then(|()| dir.supervisor(&absolute(file)).map(drop)).err();
    // A line with its own --run-dir does not use this directory.
    let lines = conf.lines.iter().filter(|line| line.args.run_dir.is_none());
    let too_long = lines.filter_map(|line| {
        let error = dir.instance(line.name.bind.as_deref(), line.name.port).err()?;
        Some(Mistake { position: line.position.clone(), what: error.to_string() })
    });
    (error, too_long.collect())
}
