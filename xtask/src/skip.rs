//! Skipping parts of a task that are not possible on this machine.
//!
//! Invariant: CI skips nothing that the documents promise.

use std::env;

use anyhow::{Result, bail};

/// Reports that a part is skipped, and why. In CI (environment variable `CI`) this is an error.
pub(crate) fn skip(what: &str, why: &str) -> Result<()> {
    skip_where(env::var_os("CI").is_some_and(|ci| !ci.is_empty()), what, why)
}

fn skip_where(in_ci: bool, what: &str, why: &str) -> Result<()> {
    if in_ci {
        bail!("{what} cannot be skipped in CI: {why}");
    }
    eprintln!("skipped: {what}: {why}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_ci_a_skip_is_an_error_with_its_reason() {
        let error = skip_where(true, "tests on other kernels", "apt has no source").unwrap_err();
        assert_eq!(
            error.to_string(),
            "tests on other kernels cannot be skipped in CI: apt has no source"
        );
    }

    #[test]
    fn elsewhere_a_skip_is_reported() {
        assert!(skip_where(false, "tests on other kernels", "apt has no source").is_ok());
    }
}
