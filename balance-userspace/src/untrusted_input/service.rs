//! Messages between the processes of a service, and the names of their files.
//!
//! Invariant: different instances and different configuration files never share a file name.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path},
};

use super::assert_one_line;
use crate::{
    control::run_dir::{self, Paths, RunDir, RunDirError},
    process::protocol::SpawnConfig,
};

/// A [`SpawnConfig`] survives a round trip.
pub fn supervisor_messages(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match SpawnConfig::parse(&text) {
        Ok(config) => {
            assert_eq!(
                SpawnConfig::parse(&config.to_json()).expect("a formatted configuration parses"),
                config
            )
        }
        Err(error) => assert_one_line(&error.to_string()),
    }
}

/// File names for two texts with a zero byte between them, as values of `-b` and as paths of
/// configuration files.
///
/// The names are different, stay inside the run directory, and give back the value of `-b`.
pub fn run_dir_names(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let (one, other) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let dir = RunDir::system();

    let binds = [one, other].map(String::from_utf8_lossy);
    let names = binds.each_ref().map(|bind| {
        let name = file_name(dir.instance(Some(bind), 25))?;
        assert_eq!(run_dir::instance_of(&name), Some((25, bind.clone().into_owned())));
        Some(name)
    });
    assert_distinct(names, binds[0] == binds[1]);
    binds.iter().for_each(|bind| drop(run_dir::instance_of(bind)));

    let is_absolute = |path: &&[u8]| path.starts_with(b"/") && !path.starts_with(b"//");
    if [one, other].iter().all(is_absolute) {
        let files = [one, other].map(|path| Path::new(OsStr::from_bytes(path)));
        let names = files.map(|file| file_name(dir.supervisor(file)));
        assert_distinct(names, one == other);
    }
}

/// Returns the name of the pid file; `None` if the path would be too long.
fn file_name(paths: Result<Paths, RunDirError>) -> Option<String> {
    let paths = match paths {
        Ok(paths) => paths,
        Err(RunDirError::TooLong { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let inside =
        paths.pid.strip_prefix(RunDir::system().path()).expect("the file is in the run directory");
    let mut components = inside.components();
    assert!(matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)));
    Some(inside.to_str().expect("the name is UTF-8").to_owned())
}

fn assert_distinct([one, other]: [Option<String>; 2], same: bool) {
    if let (Some(one), Some(other)) = (one, other) {
        assert_eq!(one == other, same, "{one} {other}");
    }
}
