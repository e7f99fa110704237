//! Files that a configuration file includes: `include GLOB`.
//!
//! Pure: [`Files`] reads. Invariants:
//! - No file includes itself, directly or through other files.
//! - A relative path is relative to the folder of the including file.

use std::path::{Path, PathBuf};

/// The maximum depth of nested `include` lines.
const MAX_DEPTH: usize = 8;

/// Access to configuration files.
pub trait Files {
    /// The files that match a pattern in a folder, sorted. A pattern without wildcards names one
    /// file, even if the file is missing.
    ///
    /// # Errors
    /// The pattern is not valid, or a folder cannot be read. The text is the reason.
    fn find(&self, folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String>;

    /// The text of a file.
    ///
    /// # Errors
    /// The text is the reason.
    fn text(&self, file: &Path) -> Result<String, String>;

    /// A path that is the same for all paths of one file.
    fn identity(&self, file: &Path) -> PathBuf;
}

/// No included files: no file is there.
#[cfg(test)]
pub(crate) struct NoFiles;

#[cfg(test)]
impl Files for NoFiles {
    fn find(&self, folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
        Ok(vec![folder.join(pattern)])
    }

    fn text(&self, _: &Path) -> Result<String, String> {
        Err("no such file".to_owned())
    }

    fn identity(&self, file: &Path) -> PathBuf {
        file.to_owned()
    }
}

/// The files from the main file to the file that is read now.
pub(super) struct Including<'a> {
    files: &'a dyn Files,
    open: Vec<PathBuf>,
}

impl<'a> Including<'a> {
    pub(super) fn new(files: &'a dyn Files, main: &Path) -> Self {
        Self { files, open: vec![files.identity(main)] }
    }

    /// The files that a pattern in a file names.
    ///
    /// # Errors
    /// The mistake in the pattern.
    pub(super) fn find(&self, including: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
        let folder = including.parent().unwrap_or(Path::new(""));
        let found = self.files.find(folder, pattern);
        found.map_err(|why| format!("include {pattern}: {why}"))
    }

    /// Returns the text of an included file, which becomes the file that is read now.
    ///
    /// # Errors
    /// The mistake: the file cannot be read, or is already being read.
    pub(super) fn enter(&mut self, file: &Path) -> Result<String, String> {
        let mistake = |why: &str| format!("include {}: {why}", file.display());
        let identity = self.files.identity(file);
        if self.open.contains(&identity) {
            return Err(mistake("the file includes itself"));
        }
        if self.open.len() > MAX_DEPTH {
            return Err(mistake(&format!("includes are nested more than {MAX_DEPTH} deep")));
        }
        let text = self.files.text(file).map_err(|why| mistake(&why))?;
        self.open.push(identity);
        Ok(text)
    }

    /// Ends the file that is read now.
    pub(super) fn leave(&mut self) {
        self.open.pop();
    }
}
