//! The BPF maps of a running program, read from outside.

use std::{fs, io};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapInfo},
};

use crate::Datapath;

/// Entries of a process in the map by which a datapath finds connections: two for each that the
/// kernel moves.
pub fn kernel_entries(process: u32, datapath: Datapath) -> Result<usize, String> {
    match datapath {
        Datapath::Relay => Ok(0),
        Datapath::Sockmap | Datapath::Handover => entries::<u64>(map(process, "SLOTS")?),
        Datapath::Splice => entries::<[u8; 40]>(map(process, "PLACES")?),
    }
}

fn entries<K: Pod>(id: u32) -> Result<usize, String> {
    let map = MapData::from_id(id)
        .and_then(Map::from_map_data)
        .map_err(|error| format!("opening map {id}: {error}"))?;
    let slots = HashMap::<_, K, u32>::try_from(&map)
        .map_err(|error| format!("map {id} is not what it should be: {error}"))?;
    let mut entries = 0;
    for key in slots.keys() {
        key.map_err(|error| format!("reading map {id}: {error}"))?;
        entries += 1;
    }
    Ok(entries)
}

fn map(process: u32, wanted: &str) -> Result<u32, String> {
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
        if name == wanted {
            return Ok(id);
        }
        names.push(name);
    }
    Err(format!("no {wanted} among the maps of {process}: {names:?}"))
}
