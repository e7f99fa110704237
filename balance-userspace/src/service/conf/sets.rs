//! Sets of servers: `set NAME SERVER...` in a configuration file, used as `@NAME`.
//!
//! Pure. Invariants:
//! - A set is defined above the lines that use the set, so no set contains itself.
//! - Expanded words contain no reference to a set.
//! - The size of an expansion is limited, however often sets refer to each other.

use std::collections::HashMap;

use super::Position;
use crate::cli::{
    name,
    operand::{self, Services},
};

/// The first character of a reference to a set. No host name begins with this character.
const REFERENCE: char = '@';

/// The most words of a set. Sets that use each other grow exponentially.
const MAX_WORDS: usize = 4096;

/// A port for servers that have none. The lines that use the set have their own.
const ANY_PORT: u16 = 1;

/// The sets of a configuration file.
#[derive(Debug, Default)]
pub(super) struct Sets(HashMap<String, Set>);

#[derive(Debug)]
struct Set {
    position: Position,
    /// Servers, `!` and `%`; `None` if the definition has a mistake.
    words: Option<Vec<String>>,
}

/// Whether a word refers to a set.
pub(super) fn is_reference(word: &str) -> bool {
    word.starts_with(REFERENCE)
}

impl Sets {
    /// Defines a set by the words after `set`.
    ///
    /// # Errors
    /// The mistake in the definition.
    pub(super) fn define(
        &mut self,
        words: &[String],
        position: &Position,
        services: Services<'_>,
    ) -> Result<(), String> {
        let [name, servers @ ..] = words else {
            return Err("set takes a name and servers".to_owned());
        };
        if !name::is_valid(name) {
            return Err(format!("set '{name}': {}", name::EXPECTED));
        }
        if let Some(first) = self.0.get(name) {
            return Err(format!("set {name} is already defined at {}", first.position));
        }
        let members = self.members(name, servers, services);
        let set = Set { position: position.clone(), words: members.as_ref().ok().cloned() };
        self.0.insert(name.clone(), set);
        members.map(drop)
    }

    fn members(
        &self,
        name: &str,
        servers: &[String],
        services: Services<'_>,
    ) -> Result<Vec<String>, String> {
        if servers.is_empty() {
            return Err(format!("set {name} has no servers"));
        }
        let words = self.expand(servers)?;
        for server in words.iter().filter(|word| !matches!(word.as_str(), "!" | "%")) {
            operand::channel(server, ANY_PORT, services).map_err(|error| error.to_string())?;
        }
        Ok(words)
    }

    /// Replaces each reference by the words of its set.
    ///
    /// # Errors
    /// A reference to an unknown set, or to a set with a mistake; too many words.
    pub(super) fn expand(&self, words: &[String]) -> Result<Vec<String>, String> {
        let mut expanded = Vec::with_capacity(words.len());
        for word in words {
            match word.strip_prefix(REFERENCE) {
                Some(name) => expanded.extend_from_slice(self.get(name)?),
                None => expanded.push(word.clone()),
            }
            if expanded.len() > words.len().max(MAX_WORDS) {
                return Err(format!("the sets have more than {MAX_WORDS} servers"));
            }
        }
        Ok(expanded)
    }

    fn get(&self, name: &str) -> Result<&[String], String> {
        let set = self.0.get(name);
        let set = set.ok_or_else(|| format!("@{name}: no line above defines this set"))?;
        let words = set.words.as_deref();
        words.ok_or_else(|| format!("@{name}: the set has a mistake at {}", set.position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn define(sets: &mut Sets, text: &str) -> Result<(), String> {
        sets.define(&words(text), &Position::new("x", 7), &|_| None)
    }

    #[test]
    fn a_reference_becomes_the_words_of_its_set() {
        let mut sets = Sets::default();
        define(&mut sets, "a x y:7").unwrap();
        define(&mut sets, "b @a ! z %").unwrap();
        assert_eq!(sets.expand(&words("25 @b w @a")).unwrap(), words("25 x y:7 ! z % w x y:7"));
    }

    #[test]
    fn a_mistake_in_a_definition_is_reported_with_its_object() {
        let mut sets = Sets::default();
        for (text, why) in [
            ("", "set takes a name and servers"),
            ("a/b x", "set 'a/b': expected a name"),
            ("a", "set a has no servers"),
            ("a x", "set a is already defined at x:7"),
            ("b @b", "@b: no line above defines this set"),
            ("c @a", "@a: the set has a mistake at x:7"),
            ("d x:y:z", "server x:y:z: port y: expected"),
        ] {
            let found = define(&mut sets, text).unwrap_err();
            assert!(found.starts_with(why), "{text}: {found}");
        }
    }

    #[test]
    fn sets_that_use_each_other_stay_small() {
        let mut sets = Sets::default();
        define(&mut sets, "s0 x x").unwrap();
        let grow = (1..40).try_for_each(|i| define(&mut sets, &format!("s{i} @s{0} @s{0}", i - 1)));
        assert_eq!(grow.unwrap_err(), "the sets have more than 4096 servers");
    }
}
