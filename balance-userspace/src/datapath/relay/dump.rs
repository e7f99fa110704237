//! The packet dump (`-p`) on standard output, in the format of the classic balance.
//!
//! Invariant: a chunk is printed whole or not at all, so chunks of several connections do not mix.

use crate::{datapath::side::Side, logging};

/// The column after which a line ends.
const COLUMN: usize = 80;

/// Prints a chunk that came from the side `from`. An empty chunk says that the side has ended.
/// Never waits for the reader of standard output: without room there the chunk is lost.
pub(crate) fn print(from: Side, bytes: &[u8]) {
    logging::dump(&render(from, bytes));
}

/// The text of a chunk.
pub(crate) fn render(from: Side, bytes: &[u8]) -> Vec<u8> {
    let arrow = match from {
        Side::Client => "->",
        Side::Backend => "-<",
    };
    let mut text = format!("{arrow} {}\n", bytes.len()).into_bytes();
    let mut column = 0;
    for &byte in bytes {
        let start = text.len();
        match byte {
            b'\\' => text.extend(b"\\\\"),
            b' '..=b'~' => text.push(byte),
            _ => text.extend(format!("\\{byte:02X}").bytes()),
        }
        column += text.len() - start;
        if byte == b'\n' || column > COLUMN {
            text.push(b'\n');
            column = 0;
        }
    }
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(from: Side, bytes: &[u8]) -> String {
        String::from_utf8(render(from, bytes)).unwrap()
    }

    #[test]
    fn a_chunk_is_dumped_as_the_classic_did() {
        assert_eq!(text(Side::Backend, b"B0\n"), "-< 3\nB0\\0A\n\n");
        assert_eq!(text(Side::Client, b"hello world\n"), "-> 12\nhello world\\0A\n\n");
        assert_eq!(text(Side::Client, b""), "-> 0\n\n");
        assert_eq!(text(Side::Client, b"\\\x7f\xff"), "-> 3\n\\\\\\7F\\FF\n");
    }

    #[test]
    fn a_line_ends_after_the_character_that_passes_the_column() {
        let a = "a".repeat(80);
        assert_eq!(text(Side::Client, a.as_bytes()), format!("-> 80\n{a}\n"));
        let b = "b".repeat(81);
        assert_eq!(text(Side::Client, b.as_bytes()), format!("-> 81\n{b}\n\n"));
        let c = "c".repeat(82);
        assert_eq!(text(Side::Client, c.as_bytes()), format!("-> 82\n{}\nc\n", "c".repeat(81)));
    }
}
