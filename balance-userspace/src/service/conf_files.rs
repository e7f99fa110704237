//! Reads configuration files, and finds the files that a pattern of `include` matches.
//!
//! Invariant: the files of a pattern are sorted by path, so their order is the same at each read.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use glob::{MatchOptions, Pattern};

use super::conf::Files;

/// Like a shell: `*` matches no hidden file and no `/`.
const AS_IN_A_SHELL: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// The files of this host.
pub(super) struct ConfFiles;

impl Files for ConfFiles {
    fn find(&self, folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
        if !pattern.contains(['*', '?', '[']) {
            return Ok(vec![folder.join(pattern)]);
        }
        let in_folder = if Path::new(pattern).is_absolute() || folder.as_os_str().is_empty() {
            pattern.to_owned()
        } else {
            let folder = folder.to_str().ok_or("the path of the folder is not UTF-8")?;
            format!("{}/{pattern}", Pattern::escape(folder))
        };
        let found = glob::glob_with(&in_folder, AS_IN_A_SHELL).map_err(|error| error.msg)?;
        let mut paths: Vec<_> = found.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        paths.sort();
        Ok(paths)
    }

    fn text(&self, file: &Path) -> Result<String, String> {
        text(file).map_err(|error| error.to_string())
    }

    fn identity(&self, file: &Path) -> PathBuf {
        // A file that is missing cannot include a file.
        file.canonicalize().unwrap_or_else(|_| file.to_owned())
    }
}

/// Reads a file. The parser rejects the words that are not UTF-8.
pub(super) fn text(file: &Path) -> io::Result<String> {
    fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(folder: &Path, pattern: &str) -> Vec<String> {
        let paths = ConfFiles.find(folder, pattern).unwrap();
        let relative = |path: &PathBuf| path.strip_prefix(folder).unwrap().display().to_string();
        paths.iter().map(relative).collect()
    }

    #[test]
    fn a_pattern_names_its_files_sorted_and_a_path_names_itself() {
        let dir = tempfile::tempdir().unwrap();
        // Characters of a pattern in the name of the folder have no special meaning.
        let folder = dir.path().join("[a]*");
        fs::create_dir(&folder).unwrap();
        for name in ["b.conf", "a.conf", ".c.conf", "d.conf.old"] {
            fs::write(folder.join(name), "").unwrap();
        }
        assert_eq!(found(&folder, "*.conf"), ["a.conf", "b.conf"]);
        assert_eq!(found(&folder, "[!b].conf"), ["a.conf"]);
        assert_eq!(found(&folder, "x/*.conf"), [""; 0]);
        assert_eq!(found(&folder, "missing"), ["missing"]);
        assert!(ConfFiles.find(&folder, "[").is_err());
        let absolute = format!("{}/?.conf", Pattern::escape(folder.to_str().unwrap()));
        assert_eq!(found(&folder, &absolute), ["a.conf", "b.conf"]);
    }
}
