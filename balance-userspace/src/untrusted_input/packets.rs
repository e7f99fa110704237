//! Packets of spliced connections, and the packet dump of `-p`.
//!
//! Invariant: the input chooses every field of the state and of the packet.

use balance_ebpf::{
    WordValue as _,
    splice::{
        LocalDelivery, MAX_OPTIONS, OptionRewrite, Options, Phase, Segment, SenderState, SideState,
        StateUpdate, Timestamps, TsDelta, advance_local_max, decide, flag, rewrite_options,
        rewrite_usual_options, step_options,
    },
};

use super::IntReader;
use crate::datapath::parsers;

/// Rewriting TCP options and then reversing it restores them. Bytes after their end stay unchanged.
pub fn tcp_options(data: &[u8]) {
    let mut numbers = IntReader(data);
    let len = usize::from(numbers.byte()) % (MAX_OPTIONS + 1);
    let known = numbers.byte();
    let change = OptionRewrite {
        ts_state: [TsDelta::None, TsDelta::Unknown, TsDelta::Known][usize::from(known) % 3],
        ts_delta: numbers.word(),
        ts_clock: numbers.word(),
        echo_delta: (known & 0x40 == 0).then(|| numbers.word()),
        sack_delta: (known & 0x80 == 0).then(|| numbers.word()),
        sack_blocks: 0,
    };
    let mut before: Options = std::array::from_fn(|_| numbers.byte());
    let (mut options, mut there) = (before, change);
    rewrite_options(&mut options, len, &mut there);
    assert_eq!(options[len..], before[len..]);
    assert!(there.sack_blocks as usize <= MAX_OPTIONS / 8);
    let (mut usual, mut change_of_usual) = (before, change);
    let difference = rewrite_usual_options(&mut usual, len, &mut change_of_usual);
    match difference {
        Some(_) => assert_eq!((usual, change_of_usual), (options, there)),
        None => assert_eq!((usual, change_of_usual), (before, change)),
    }
    if let (TsDelta::None | TsDelta::Known, Some(echo), Some(sack)) =
        (change.ts_state, change.echo_delta, change.sack_delta)
    {
        let mut back = OptionRewrite {
            ts_delta: change.ts_delta.wrapping_neg(),
            echo_delta: Some(echo.wrapping_neg()),
            sack_delta: Some(sack.wrapping_neg()),
            ..change
        };
        rewrite_options(&mut options, len, &mut back);
        assert_eq!(options, before);
        assert_eq!(back.sack_blocks, there.sack_blocks);
    }
    let mut at = 0;
    while let Some(next) = step_options(&mut before, len, at, &mut there) {
        assert!(at < next && next <= len, "from {at} to {next} of {len}");
        at = next;
    }
}

/// The splice decision for any packet and any state of the two sides.
///
/// Only an accepted packet drains a side. A drained socket gets only the packets that it must
/// answer.
pub fn splice_decision(data: &[u8]) {
    let mut numbers = IntReader(data);
    let phase = [Phase::Opening, Phase::Joined, Phase::Lingering][usize::from(numbers.byte()) % 3];
    let this = side(&mut numbers);
    let other = side(&mut numbers);
    let packet = Segment {
        seq: numbers.word(),
        ack: numbers.word(),
        // More than the largest payload.
        len: numbers.word() & 0xffff,
        window: numbers.word() as u16,
        flags: numbers.byte(),
    };
    let decision = decide(phase, &this, &other, &packet, numbers.byte() & 1 == 0);
    assert!(decision.accepted || !decision.drains, "{decision:?}");
    let drained = this.drained;
    assert!(!(drained && decision.drains), "{decision:?}");
    if drained && packet.flags & flag::SYN == 0 && packet.flags & flag::ACK != 0 && other.drained {
        assert_eq!(decision.local, LocalDelivery::Nothing);
    }
    if let (Some(forward), true) = (decision.forward, packet.seq_len() > 0) {
        // The payload keeps its position in the stream.
        assert_eq!(forward.seq, packet.seq.wrapping_add(this.seq_delta));
    }
    if decision.accepted {
        let StateUpdate { end, acked, window_right_edge, .. } = StateUpdate::of(
            &this,
            &other,
            &packet,
            &decision.forward.expect("an accepted packet is forwarded"),
        );
        let snd_una = SenderState::acknowledge(other.sender.snd_una, acked);
        assert!(snd_una >= other.sender.snd_una);
        assert_eq!(end, packet.end());
        // The right edge of the window is not before the acknowledgement, and within the largest
        // window.
        assert!(
            window_right_edge
                .wrapping_sub(decision.forward.expect("an accepted packet is forwarded").ack)
                <= 0xffff << 14
        );
    }
    let next = advance_local_max(this.local_max_seq, &packet);
    assert!(next == this.local_max_seq || next == packet.end());
}

fn side(numbers: &mut IntReader<'_>) -> SideState {
    SideState {
        seq_delta: numbers.word(),
        cutover_seq: numbers.word(),
        local_snd_nxt: numbers.word(),
        drained: numbers.byte() & 1 != 0,
        local_max_seq: numbers.word(),
        wl1_offset: numbers.word(),
        ack_slack: numbers.word(),
        scale_in: numbers.byte(),
        scale_out: numbers.byte(),
        timestamps: Timestamps::from_bits(numbers.byte()),
        ts_delta: numbers.word(),
        sender: SenderState {
            window_right_edge: numbers.word(),
            max_window: numbers.word(),
            right_edge_slack: numbers.word(),
            ..SenderState::new(numbers.word(), numbers.word())
        },
    }
}

/// The packet dump of `-p` is safe on a terminal, and the payload can be decoded from it.
pub fn dump(data: &[u8]) {
    let shown = String::from_utf8(parsers::render_dump(parsers::Side::Client, data))
        .expect("the dump is UTF-8");
    super::assert_lines(&shown);
    let (head, body) = shown.split_once('\n').expect("the dump has a first line");
    assert_eq!(head, format!("-> {}", data.len()));
    let mut bytes = Vec::new();
    let mut left = body.bytes().filter(|&byte| byte != b'\n');
    while let Some(byte) = left.next() {
        bytes.push(match (byte, left.clone().next()) {
            (b'\\', Some(b'\\')) => left.next().unwrap_or_default(),
            (b'\\', _) => {
                let digits: Vec<u8> = left.by_ref().take(2).collect();
                let digits = String::from_utf8(digits).expect("the dump is UTF-8");
                u8::from_str_radix(&digits, 16).expect("an escape has two hexadecimal digits")
            }
            _ => byte,
        });
    }
    assert_eq!(bytes, data);
}
