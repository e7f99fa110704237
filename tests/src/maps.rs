//! The BPF maps of a running program, read from outside.

use std::{fs, io};

use aya::maps::{HashMap, Map, MapData, MapInfo};

/// Entries in the `SLOTS` map of a process: two for each connection that the kernel moves.
pub fn kernel_entries(process: u32) -> Result<usize, String> {
    let id = slots_map(process)?;
    let map = MapData::from_id(id)
        .and_then(Map::from_map_data)
        .map_err(|error| format!("opening map {id}: {error}"))?;
    let slots = HashMap::<_, u64, u32>::try_from(&map)
        .map_err(|error| format!("map {id} is not what it should be: {error}"))?;
    let mut entries = 0;
    for key in slots.keys() {
        key.map_err(|error| format!("reading map {id}: {error}"))?;
        entries += 1;
    }
    Ok(entries)
}

fn slots_map(process: u32) -> Result<u32, String> {
    let folder = format!("/proc/{process}/fdinfo");
    let list = fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
    let mut names = Vec::new();
    for entry in list {
        let path = entry.map_err(|error| format!("{folder}: {error}"))?.path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Closed since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let Some(id) = text.lines().find_map(|line| line.strip_prefix("map_id:")) else {
            continue;
        };
        let id = id.trim().parse().map_err(|_| format!("map_id {id}"))?;
        let info = MapInfo::from_id(id).map_err(|error| format!("map {id}: {error}"))?;
        let name = String::from_utf8_lossy(info.name()).into_owned();
        if name == "SLOTS" {
            return Ok(id);
        }
        names.push(name);
    }
    Err(format!("no SLOTS among the maps of {process}: {names:?}"))
}
