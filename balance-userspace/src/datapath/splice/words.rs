//! Access to the memory that user space shares with the splice program.
//!
//! Invariant: every access reads or writes a whole word atomically, because the program and other
//! threads access the same words.

use balance_ebpf::splice::{Globals, SpliceWords};

use crate::datapath::offload::mapped::Mapped;

/// The words of the splice in a slot.
pub(super) fn splice_words(array: &Mapped<SpliceWords>, slot: u32) -> &SpliceWords {
    // SAFETY: within the mapping, which the reference borrows. All fields are words, which are
    // changed as a whole and for which any bits are a value.
    unsafe { array.get(slot).as_ref() }
}

/// The words of the whole datapath.
pub(super) fn global_words(array: &Mapped<Globals>) -> &Globals {
    // SAFETY: as above.
    unsafe { array.get(0).as_ref() }
}

#[cfg(test)]
mod tests {
    use balance_ebpf::{
        Shared as _, Side, Word,
        splice::{Phase, SenderState, Splice, ending, is_after},
    };
    use std::thread;

    /// In memory that Miri sees, unlike a mapping.
    #[test]
    fn two_threads_use_the_words_of_a_splice_at_the_same_time() {
        const PACKETS: u32 = if cfg!(miri) { 50 } else { 5_000 };
        let words = Splice { phase: Phase::Joined, ..Splice::default() }.into_memory();
        let raise = |word: &Word<u32>, number| {
            word.update_seq_cst(|seen| is_after(number, seen).then_some(number));
        };
        thread::scope(|scope| {
            for side in Side::BOTH {
                let words = &words;
                scope.spawn(move || {
                    let sender = &words.directions[side].side.sender;
                    for number in 1..=PACKETS {
                        raise(&sender.snd_nxt, number);
                        let other = &words.directions[!side].side.sender;
                        other
                            .snd_una
                            .update_seq_cst(|seen| Some(SenderState::acknowledge(seen, number)));
                    }
                    let fin = ending::of(ending::FIN, side);
                    words.endings.update_seq_cst(|seen| Some(seen | fin));
                });
            }
            while words.endings.load_seq_cst() == 0 {
                let seen = Splice::load_relaxed(&words);
                assert_eq!(seen.phase, Phase::Joined);
                thread::yield_now();
            }
        });
        let splice = Splice::load_relaxed(&words);
        assert_eq!(splice.endings, ending::FIN | ending::of(ending::FIN, Side::Backend));
        for side in Side::BOTH {
            let sender = splice.directions[side].side.sender;
            assert_eq!((sender.snd_nxt, sender.acked()), (PACKETS, PACKETS));
        }
    }
}
