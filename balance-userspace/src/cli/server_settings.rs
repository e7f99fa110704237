//! Settings of a server behind its address, as in `mx1:25,name=a,max=10`: a table of keys.
//!
//! Pure. Invariant: a setting is given at most once.

use super::{name, operand::ChannelSpec, usage_error::quoted};

/// A key of the settings.
struct SettingKey {
    /// The key, without `=`.
    key: &'static str,
    /// Applies the value. The error says which value is expected.
    apply: fn(&mut ChannelSpec, &str) -> Result<(), String>,
}

/// All keys.
const KEYS: [SettingKey; 2] = [
    SettingKey {
        key: "name",
        apply: |spec, value| {
            if !name::is_valid(value) {
                return Err(name::EXPECTED.to_owned());
            }
            spec.name = Some(value.to_owned());
            Ok(())
        },
    },
    SettingKey {
        key: MAX,
        apply: |spec, value| {
            spec.max = connections(value)?;
            Ok(())
        },
    },
];

/// The key of the maximum of connections, which is also the third field of the address.
pub(super) const MAX: &str = "max";

/// Parses a number of connections; 0 means no limit.
pub(super) fn connections(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number.ok_or_else(|| "expected a number of connections".to_owned())
}

/// Applies settings, `KEY=VALUE` separated by commas, to a channel. `given` are the keys that the
/// address has set already.
///
/// # Errors
/// The mistake, in words that follow the operand and a colon.
pub(super) fn apply(spec: &mut ChannelSpec, settings: &str, given: &[&str]) -> Result<(), String> {
    let mut given = given.to_vec();
    for setting in settings.split(',') {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("{}: expected KEY=VALUE", quoted(setting)))?;
        let Some(found) = KEYS.iter().find(|known| known.key == key) else {
            let keys: Vec<_> = KEYS.iter().map(|known| known.key).collect();
            return Err(format!("unknown key {}, known are {}", quoted(key), keys.join(", ")));
        };
        if given.contains(&found.key) {
            return Err(format!("{key} is given twice"));
        }
        given.push(found.key);
        (found.apply)(spec, value)
            .map_err(|expected| format!("{}: {expected}", quoted(setting)))?;
    }
    Ok(())
}
