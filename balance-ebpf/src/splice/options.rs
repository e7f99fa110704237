//! Translates the options of a TCP header from one connection to the other.
//!
//! Invariant: the length of the options never changes, and unknown options stay unchanged.
//!
//! The program handles one option at a time ([`step`]) in a function that the kernel calls for
//! each. The BPF verifier follows every path through a loop over all options, but follows such a
//! function only once.

use super::checksum::ChecksumDelta;

/// The largest options of a header, in bytes.
pub const MAX: usize = 40;

/// A buffer for options. The largest known option can be read from any offset below [`MAX`], so
/// only the offset needs a check.
pub type Options = [u8; MAX + LARGEST];

/// Four blocks of selective acknowledgements with kind and length, rounded up.
const LARGEST: usize = 40;

const END: u8 = 0;
const NOP: u8 = 1;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// Bytes of the timestamp option.
const TIMESTAMPS_LEN: usize = 10;

/// How options change.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionRewrite {
    /// Whether timestamps change, and whether `ts_delta` is known.
    pub ts_state: TsDelta,
    /// Added to the sender's timestamp. Computed if it is not known.
    pub ts_delta: u32,
    /// The value that the first timestamp becomes, if `ts_delta` is not known.
    pub ts_clock: u32,
    /// Subtracted from the echoed timestamp. `None` if it is not known.
    pub echo_delta: Option<u32>,
    /// Subtracted from both edges of selective acknowledgements. `None` to replace them by padding.
    pub sack_delta: Option<u32>,
    /// Number of selective acknowledgements that were translated.
    pub sack_blocks: u32,
}

/// The distance of a sender's timestamps from the other connection's clock.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TsDelta {
    /// The connection has no timestamps, or they do not change.
    #[default]
    None,
    /// No timestamp has been seen yet.
    Unknown,
    /// No timestamp has been seen yet, and this packet may not be the peer's.
    Untrusted,
    /// The distance is known.
    Known,
}

/// Translates all options.
pub fn rewrite(options: &mut Options, len: usize, change: &mut OptionRewrite) {
    let mut at = 0;
    while let Some(next) = step(options, len, at, change) {
        at = next;
    }
}

/// Translates the options of most packets: timestamps alone, in the usual place (RFC 7323, appendix
/// A). Returns the change of the checksum. `None` if the packet has other options; nothing has
/// changed then.
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

/// The first words, in network order.
#[inline(always)]
fn words(options: &Options) -> [u32; USUAL_LEN / 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *options;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
}

/// Translates the option at an offset. Returns the offset of the next one. `None` at the end of the
/// options.
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

/// Bytes of the usual options, and their first word.
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
    // Two edges for each of at most four blocks.
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

    /// Translates options. Returns the number of blocks.
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

    /// Writes options one after the other, as many as fit.
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

    /// Well-formed options, known and unknown ones.
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
    fn timestamps_and_blocks_are_translated() {
        let list =
            [Vec::from([NOP, NOP]), timestamps(1, 80), Vec::from([NOP, NOP]), sack_blocks(&[0, 9])];
        let (mut options, len) = lay(&list);
        assert_eq!(change(&mut options, len, CHANGE), 1);
        let ts_state = timestamps(1 + (1 << 31), 3);
        let list = [Vec::from([NOP, NOP]), ts_state, Vec::from([NOP, NOP]), sack_blocks(&[5, 14])];
        assert_eq!(options, lay(&list).0);
    }

    #[test]
    fn an_untrusted_timestamp_becomes_the_clock_and_sets_no_delta() {
        let before = OptionRewrite { ts_state: TsDelta::Untrusted, ts_clock: 500, ..CHANGE };
        let (mut options, len) = lay(&[timestamps(9, 80)]);
        let mut change = before;
        rewrite(&mut options, len, &mut change);
        assert_eq!(options, lay(&[timestamps(500, 3)]).0);
        assert_eq!(change.ts_state, TsDelta::Untrusted);
    }

    #[test]
    fn an_unknown_echo_becomes_zero() {
        let (mut options, len) = lay(&[timestamps(1, 80)]);
        change(&mut options, len, OptionRewrite { echo_delta: None, ..CHANGE });
        assert_eq!(options, lay(&[timestamps(1 + (1 << 31), 0)]).0);
        let before = options;
        change(&mut options, len, OptionRewrite { ts_state: TsDelta::None, ..CHANGE });
        assert_eq!(options, before);
    }

    #[test]
    fn options_behind_the_end_stay() {
        let (mut options, len) = lay(&[Vec::from([END]), timestamps(1, 2), sack_blocks(&[3, 4])]);
        let before = options;
        assert_eq!(change(&mut options, len, CHANGE), 0);
        assert_eq!(options, before);
    }

    proptest! {
        /// The fast path gives the same result, and the right change of the checksum.
        #[test]
        fn usual_options_become_what_others_would(
            ts_delta: u32, echo_delta: u32, shift: u32, other in prop::option::of(any::<u32>()),
            is_known: bool,
        ) {
            let ts_state = if is_known { TsDelta::Known } else { TsDelta::Unknown };
            let before = OptionRewrite {
                ts_state,
                ts_delta: shift,
                ts_clock: 99,
                echo_delta: other,
                ..CHANGE
            };
            let (options, len) = lay(&[Vec::from([NOP, NOP]), timestamps(ts_delta, echo_delta)]);
            let (mut usual, mut change) = (options, before);
            let delta = rewrite_usual(&mut usual, len, &mut change);
            let (mut longer, mut same) = (options, before);
            rewrite(&mut longer, len, &mut same);
            prop_assert_eq!((usual, change), (longer, same));
            let mended = update_checksum(check(&words(&options)), delta.unwrap().sum());
            prop_assert_eq!(mended, check(&words(&usual)));
        }

        /// Also with more options behind timestamps in their usual place.
        #[test]
        fn other_options_are_not_taken_for_usual_ones(list in option_lists(), begins_usual: bool) {
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

        /// The first timestamp becomes the clock, at any offset. Later timestamps keep the
        /// distance.
        #[test]
        fn an_unknown_delta_is_computed_behind_other_options(
            list in option_lists(),
            ts_delta: u32,
            ts_clock: u32,
        ) {
            let mut list = list;
            list.retain(|option| option[0] != TIMESTAMPS);
            // The timestamp option is the last one that fits.
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

        /// Garbage causes no panic, and no byte behind its end changes.
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
        fn removed_blocks_become_padding_and_all_else_stays(list in option_lists()) {
            let (mut options, len) = lay(&list);
            let (mut before, _) = lay(&list);
            let removed = OptionRewrite { ts_state: TsDelta::None, sack_delta: None, ..CHANGE };
            change(&mut options, len, removed);
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
