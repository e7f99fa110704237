//! Packets of spliced connections, and the packet dump of `-p`.
//!
//! Invariant: the input chooses every field of the state and of the packet.

use balance_ebpf::splice::{
    Change, Evidence, Local, MOST_OPTIONS, News, Options, Segment, Side, Stamps, flag, judge, note,
    phase, rewrite_options, rewrite_usual_options, step_options,
};

use super::IntReader;
use crate::datapath::parsers;

/// Rewriting TCP options and then reversing it restores them. Bytes after their end stay unchanged.
pub fn tcp_options(data: &[u8]) {
    let mut numbers = IntReader(data);
    let len = usize::from(numbers.byte()) % (MOST_OPTIONS + 1);
    let known = numbers.byte();
    let change = Change {
        stamps: [Stamps::None, Stamps::Unknown, Stamps::Known][usize::from(known) % 3],
        stamp: numbers.word(),
        clock: numbers.word(),
        echo: (known & 0x40 == 0).then(|| numbers.word()),
        sack: (known & 0x80 == 0).then(|| numbers.word()),
        blocks: 0,
    };
    let mut before: Options = std::array::from_fn(|_| numbers.byte());
    let (mut options, mut there) = (before, change);
    rewrite_options(&mut options, len, &mut there);
    assert_eq!(options[len..], before[len..]);
    assert!(there.blocks as usize <= MOST_OPTIONS / 8);
    let (mut usual, mut change_of_usual) = (before, change);
    let difference = rewrite_usual_options(&mut usual, len, &mut change_of_usual);
    match difference {
        Some(_) => assert_eq!((usual, change_of_usual), (options, there)),
        None => assert_eq!((usual, change_of_usual), (before, change)),
    }
    if let (Stamps::None | Stamps::Known, Some(echo), Some(sack)) =
        (change.stamps, change.echo, change.sack)
    {
        let mut back = Change {
            stamp: change.stamp.wrapping_neg(),
            echo: Some(echo.wrapping_neg()),
            sack: Some(sack.wrapping_neg()),
            ..change
        };
        rewrite_options(&mut options, len, &mut back);
        assert_eq!(options, before);
        assert_eq!(back.blocks, there.blocks);
    }
    let mut at = 0;
    while let Some(next) = step_options(&mut before, len, at, &mut there) {
        assert!(at < next && next <= len, "from {at} to {next} of {len}");
        at = next;
    }
}

/// The splice decision for any packet and any state of the two sides.
///
/// Only an accepted packet drains a side. A drained socket gets only the packets that it must answer.
pub fn splice_decision(data: &[u8]) {
    let mut numbers = IntReader(data);
    let phase = [phase::OPENING, phase::JOINED, phase::LINGERING][usize::from(numbers.byte()) % 3];
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
    let judged = judge(phase, &this, &other, &packet, numbers.byte() & 1 == 0);
    assert!(judged.accepted || !judged.settles, "{judged:?}");
    let settled = this.settled != 0;
    assert!(!(settled && judged.settles), "{judged:?}");
    if settled
        && packet.flags & flag::SYN == 0
        && packet.flags & flag::ACK != 0
        && other.settled != 0
    {
        assert_eq!(judged.local, Local::Nothing);
    }
    if let (Some(forward), true) = (judged.forward, packet.takes() > 0) {
        // The payload keeps its position in the stream.
        assert_eq!(forward.seq, packet.seq.wrapping_add(this.shift));
    }
    if judged.accepted {
        let News { end, acked, edge, .. } = News::of(
            &this,
            &other,
            &packet,
            &judged.forward.expect("an accepted packet is forwarded"),
        );
        let snd_una = Evidence::acknowledge(other.sent.snd_una, acked);
        assert!(snd_una >= other.sent.snd_una);
        assert_eq!(end, packet.end());
        // The right edge of the window is not before the acknowledgement, and within the largest window.
        assert!(
            edge.wrapping_sub(judged.forward.expect("an accepted packet is forwarded").ack)
                <= 0xffff << 14
        );
    }
    let next = note(this.next, &packet);
    assert!(next == this.next || next == packet.end());
}

fn side(numbers: &mut IntReader<'_>) -> Side {
    Side {
        shift: numbers.word(),
        cut: numbers.word(),
        written: numbers.word(),
        settled: u32::from(numbers.byte() & 1),
        next: numbers.word(),
        ahead: numbers.word(),
        leeway: numbers.word(),
        scale_in: numbers.byte(),
        scale_out: numbers.byte(),
        stamped: numbers.byte(),
        unused: 0,
        stamp_shift: numbers.word(),
        reserved: 0,
        sent: Evidence {
            snd_edge: numbers.word(),
            max_window: numbers.word(),
            edge_slack: numbers.word(),
            ..Evidence::new(numbers.word(), numbers.word())
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
