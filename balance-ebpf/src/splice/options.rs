//! The options of a TCP header on their way from one connection to another.
//!
//! Invariant: the length of the options never changes, and what is not understood is left alone.
//! They are gone through option by option ([`step`]), because the BPF verifier follows every way
//! through a loop over all of them, but only once a function that the kernel calls for each.

use super::checksum::ChecksumDelta;

/// The most that a header has room for, in bytes.
pub const MAX: usize = 40;

/// What options are kept in. From any place among them the largest option that is understood can be
/// read, so that nothing but the place needs a check.
pub type Options = [u8; MAX + LARGEST];

/// Four selective acknowledgements with their kind and size, rounded up.
const LARGEST: usize = 40;

const END: u8 = 0;
const NOP: u8 = 1;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// Bytes of the option with timestamps.
const TIMESTAMPS_LEN: usize = 10;

/// What changes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionRewrite {
    /// Whether there are timestamps to be changed, and by how much is known.
    pub ts_state: TsDelta,
    /// What is added to the sender's timestamp. Where that is not known it is found out.
    pub ts_delta: u32,
    /// What the first timestamp is to become, where that is not known.
    pub ts_clock: u32,
    /// What is taken from the timestamp that it echoes; `None` if nothing is known of it.
    pub echo_delta: Option<u32>,
    /// What is taken from both edges of selective acknowledgements; `None` to blank them.
    pub sack_delta: Option<u32>,
    /// How many of those there were.
    pub sack_blocks: u32,
}

/// What is known of a sender's timestamps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TsDelta {
    /// There are none, or they stay as they are.
    #[default]
    None,
    /// None has been seen yet.
    Unknown,
    /// None has been seen yet, and this one may not be the peer's.
    Untrusted,
    /// How its clock stands to the other one.
    Known,
}

/// Changes all options.
pub fn rewrite(options: &mut Options, len: usize, change: &mut OptionRewrite) {
    let mut at = 0;
    while let Some(next) = step(options, len, at, change) {
        at = next;
    }
}

/// Changes the options if they are what most packets have, timestamps alone and in the usual place
/// (RFC 7323, appendix A); says what the checksum changes by.
#[inline(always)]
pub fn rewrite_usual(
    options: &mut Options,
    len: usize,
    change: &mut OptionRewrite,
) -> Option<ChecksumDelta> {
    let before = words(options);
    if len != USUAL_LEN || before[0] != USUAL {
        return None;
    }
    rewrite_stamps(options, USUAL_LEN - TIMESTAMPS_LEN, change);
    let after = words(options);
    Some(ChecksumDelta::NONE.and(before[1], after[1]).and(before[2], after[2]))
}

/// The first words, as they stand there.
#[inline(always)]
fn words(options: &Options) -> [u32; USUAL_LEN / 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *options;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
}

/// Changes the option at a place; says where the next one is, if there can be one.
#[inline(always)]
pub fn step(
    options: &mut Options,
    len: usize,
    at: usize,
    change: &mut OptionRewrite,
) -> Option<usize> {
    if at >= len || at >= MAX {
        return None;
    }
    let kind = options[at];
    if kind == END {
        return None;
    }
    if kind == NOP {
        return Some(at + 1);
    }
    let size = options[at + 1] as usize;
    if !(2..=MAX).contains(&size) || at + size > len {
        return None;
    }
    if kind == TIMESTAMPS && size == TIMESTAMPS_LEN {
        rewrite_stamps(options, at, change);
    } else if kind == SACK {
        rewrite_sack(options, at, size, change);
    }
    Some(at + size)
}

/// Bytes of the usual options, and how they begin.
const USUAL_LEN: usize = 2 + TIMESTAMPS_LEN;
const USUAL: u32 = u32::from_ne_bytes([NOP, NOP, TIMESTAMPS, TIMESTAMPS_LEN as u8]);

#[inline(always)]
fn rewrite_stamps(options: &mut Options, at: usize, change: &mut OptionRewrite) {
    let ts_delta = read(options, at + 2);
    match change.ts_state {
        TsDelta::None => return,
        TsDelta::Unknown => {
            change.ts_delta = change.ts_clock.wrapping_sub(ts_delta);
            change.ts_state = TsDelta::Known;
        }
        TsDelta::Untrusted => change.ts_delta = change.ts_clock.wrapping_sub(ts_delta),
        TsDelta::Known => {}
    }
    write(options, at + 2, ts_delta.wrapping_add(change.ts_delta));
    let echo_delta = match change.echo_delta {
        Some(by) => read(options, at + 6).wrapping_sub(by),
        None => 0,
    };
    write(options, at + 6, echo_delta);
}

#[inline(always)]
fn rewrite_sack(options: &mut Options, at: usize, size: usize, change: &mut OptionRewrite) {
    let Some(by) = change.sack_delta else {
        options[at] = NOP;
        options[at + 1] = NOP;
        let mut i = 0;
        while i < 8 && 6 + i * 4 <= size {
            write(options, at + 2 + i * 4, u32::from_be_bytes([NOP; 4]));
            i += 1;
        }
        return;
    };
    // Two edges for each of at most four.
    let mut i = 0;
    while i < 8 && 6 + i * 4 <= size {
        let edge = read(options, at + 2 + i * 4);
        write(options, at + 2 + i * 4, edge.wrapping_sub(by));
        i += 1;
    }
    change.sack_blocks += i as u32 / 2;
}

#[inline(always)]
fn read(options: &Options, at: usize) -> u32 {
    u32::from_be_bytes([options[at], options[at + 1], options[at + 2], options[at + 3]])
}

#[inline(always)]
fn write(options: &mut Options, at: usize, number: u32) {
    let [a, b, c, d] = number.to_be_bytes();
    options[at] = a;
    options[at + 1] = b;
    options[at + 2] = c;
    options[at + 3] = d;
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::splice::checksum::{check, update_checksum};
    use proptest::prelude::*;
    use std::vec::Vec;

    const CHANGE: OptionRewrite = OptionRewrite {
        ts_state: TsDelta::Known,
        ts_delta: 1 << 31,
        ts_clock: 0,
        echo_delta: Some(77),
        sack_delta: Some(u32::MAX - 4),
        sack_blocks: 0,
    };

    const BACK: OptionRewrite = OptionRewrite {
        ts_delta: CHANGE.ts_delta.wrapping_neg(),
        echo_delta: Some(77u32.wrapping_neg()),
        sack_delta: Some(5),
        ..CHANGE
    };

    /// Changes options; says how many blocks there were.
    fn change(options: &mut Options, len: usize, change: OptionRewrite) -> u32 {
        let mut change = change;
        rewrite(options, len, &mut change);
        change.sack_blocks
    }

    fn timestamps(ts_delta: u32, echo_delta: u32) -> Vec<u8> {
        [&[TIMESTAMPS, 10][..], &ts_delta.to_be_bytes(), &echo_delta.to_be_bytes()].concat()
    }

    fn sack_blocks(edges: &[u32]) -> Vec<u8> {
        let mut option = Vec::from([SACK, 2 + 4 * edges.len() as u8]);
        option.extend(edges.iter().flat_map(|edge| edge.to_be_bytes()));
        option
    }

    /// Lays options out one after the other, as many as fit.
    fn lay(list: &[Vec<u8>]) -> (Options, usize) {
        let (mut options, mut len) = ([0; MAX + LARGEST], 0);
        for option in list.iter().filter(|option| option.len() <= MAX) {
            if len + option.len() <= MAX {
                options[len..len + option.len()].copy_from_slice(option);
                len += option.len();
            }
        }
        (options, len)
    }

    /// Options that are well formed, known ones and others.
    fn option_lists() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let unknown = (9u8..=255, prop::collection::vec(any::<u8>(), 0..12))
            .prop_map(|(kind, body)| [&[kind, body.len() as u8 + 2][..], &body].concat());
        let sack = prop::collection::vec(any::<[u32; 2]>(), 1..4)
            .prop_map(|edges| sack_blocks(&edges.concat()));
        let one = prop_oneof![
            Just(Vec::from([NOP])),
            (any::<u32>(), any::<u32>())
                .prop_map(|(ts_delta, echo_delta)| timestamps(ts_delta, echo_delta)),
            sack,
            unknown,
        ];
        prop::collection::vec(one, 0..8)
    }

    #[test]
    fn timestamps_and_blocks_are_changed_as_said() {
        let list =
            [Vec::from([NOP, NOP]), timestamps(1, 80), Vec::from([NOP, NOP]), sack_blocks(&[0, 9])];
        let (mut options, len) = lay(&list);
        assert_eq!(change(&mut options, len, CHANGE), 1);
        let ts_state = timestamps(1 + (1 << 31), 3);
        let list = [Vec::from([NOP, NOP]), ts_state, Vec::from([NOP, NOP]), sack_blocks(&[5, 14])];
        assert_eq!(options, lay(&list).0);
    }

    #[test]
    fn what_may_not_be_the_peers_gets_the_time_and_tells_none() {
        let before = OptionRewrite { ts_state: TsDelta::Untrusted, ts_clock: 500, ..CHANGE };
        let (mut options, len) = lay(&[timestamps(9, 80)]);
        let mut change = before;
        rewrite(&mut options, len, &mut change);
        assert_eq!(options, lay(&[timestamps(500, 3)]).0);
        assert_eq!(change.ts_state, TsDelta::Untrusted);
    }

    #[test]
    fn what_is_not_known_is_not_echoed() {
        let (mut options, len) = lay(&[timestamps(1, 80)]);
        change(&mut options, len, OptionRewrite { echo_delta: None, ..CHANGE });
        assert_eq!(options, lay(&[timestamps(1 + (1 << 31), 0)]).0);
        let before = options;
        change(&mut options, len, OptionRewrite { ts_state: TsDelta::None, ..CHANGE });
        assert_eq!(options, before);
    }

    #[test]
    fn nothing_is_looked_for_behind_the_end() {
        let (mut options, len) = lay(&[Vec::from([END]), timestamps(1, 2), sack_blocks(&[3, 4])]);
        let before = options;
        assert_eq!(change(&mut options, len, CHANGE), 0);
        assert_eq!(options, before);
    }

    proptest! {
        /// The shorter way through them comes to the same, and mends the checksum.
        #[test]
        fn usual_options_become_what_others_would(
            ts_delta: u32, echo_delta: u32, shift: u32, other in prop::option::of(any::<u32>()),
            is_known: bool,
        ) {
            let ts_state = if is_known { TsDelta::Known } else { TsDelta::Unknown };
            let before = OptionRewrite { ts_state, ts_delta: shift, ts_clock: 99, echo_delta: other, ..CHANGE };
            let (options, len) = lay(&[Vec::from([NOP, NOP]), timestamps(ts_delta, echo_delta)]);
            let (mut usual, mut change) = (options, before);
            let delta = rewrite_usual(&mut usual, len, &mut change);
            let (mut longer, mut same) = (options, before);
            rewrite(&mut longer, len, &mut same);
            prop_assert_eq!((usual, change), (longer, same));
            let mended = update_checksum(check(&words(&options)), delta.unwrap().sum());
            prop_assert_eq!(mended, check(&words(&usual)));
        }

        /// Also if there is something behind timestamps in their usual place.
        #[test]
        fn other_options_are_not_taken_for_usual(list in option_lists(), begins_usual: bool) {
            let mut list = list;
            if begins_usual {
                list.insert(0, [&[NOP, NOP][..], &timestamps(1, 80)].concat());
            }
            let (mut options, len) = lay(&list);
            let before = options;
            let is_usual = len == 12 && options[..4] == [NOP, NOP, TIMESTAMPS, 10];
            let mut change = CHANGE;
            prop_assert_eq!(rewrite_usual(&mut options, len, &mut change).is_some(), is_usual);
            prop_assert!(is_usual || options == before && change == CHANGE);
        }

        /// The first timestamp becomes the clock, wherever it is; all later ones keep the distance.
        #[test]
        fn a_clock_that_is_not_known_is_found_out_behind_other_options(
            list in option_lists(),
            ts_delta: u32,
            ts_clock: u32,
        ) {
            let mut list = list;
            list.retain(|option| option[0] != TIMESTAMPS);
            // It is the last that fits.
            let mut room = MAX - TIMESTAMPS_LEN;
            list.retain(|option| {
                let fits = option.len() <= room;
                room -= if fits { option.len() } else { 0 };
                fits
            });
            list.push(timestamps(ts_delta, 0));
            let (mut options, len) = lay(&list);
            let mut change = OptionRewrite { ts_state: TsDelta::Unknown, ts_clock, ..CHANGE };
            rewrite(&mut options, len, &mut change);
            prop_assert_eq!(change.ts_state, TsDelta::Known);
            prop_assert_eq!(change.ts_delta, ts_clock.wrapping_sub(ts_delta));
            prop_assert_eq!(read(&options, len - 8), ts_clock);
        }

        #[test]
        fn there_and_back_is_the_same(list in option_lists()) {
            let (mut options, len) = lay(&list);
            let before = options;
            let sack_blocks = change(&mut options, len, CHANGE);
            prop_assert_eq!(change(&mut options, len, BACK), sack_blocks);
            prop_assert_eq!(options, before);
        }

        /// Nor does garbage panic, nor is anything behind its end touched.
        #[test]
        fn there_and_back_is_the_same_for_garbage(
            garbage in prop::collection::vec(prop_oneof![0u8..11, any::<u8>()], MAX + LARGEST),
            len in 0..=MAX,
        ) {
            let mut options: Options = [0; MAX + LARGEST];
            options.copy_from_slice(&garbage);
            let garbage = options;
            change(&mut options, len, CHANGE);
            prop_assert_eq!(&options[len..], &garbage[len..]);
            change(&mut options, len, BACK);
            prop_assert_eq!(options, garbage);
            change(&mut options, len, OptionRewrite { sack_delta: None, ..CHANGE });
            prop_assert_eq!(&options[len..], &garbage[len..]);
        }

        #[test]
        fn blanked_blocks_leave_padding_and_all_else(list in option_lists()) {
            let (mut options, len) = lay(&list);
            let (mut before, _) = lay(&list);
            change(&mut options, len, OptionRewrite { ts_state: TsDelta::None, sack_delta: None, ..CHANGE });
            let mut at = 0;
            let mut nothing = OptionRewrite { sack_delta: Some(0), ..OptionRewrite::default() };
            while let Some(next) = step(&mut before, len, at, &mut nothing) {
                let blank = [NOP; MAX];
                let blanked = before[at] == SACK;
                let expected = if blanked { &blank[..next - at] } else { &before[at..next] };
                prop_assert_eq!(&options[at..next], expected);
                at = next;
            }
            prop_assert_eq!(&options[at..], &before[at..]);
        }
    }
}
