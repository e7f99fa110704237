//! Offsets of fields in the structures of the running kernel, from its type information (BTF;
//! Documentation/bpf/btf.rst).
//!
//! Invariant: malformed input gives `None`, and neither a panic nor a wrong offset.

use std::fs;

/// The byte offset of a direct field of a struct, in the running kernel.
pub(super) fn field_offset(of: &str, field: &str) -> Option<u64> {
    find(&fs::read("/sys/kernel/btf/vmlinux").ok()?, of, field)
}

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;

/// The byte offset of a direct field of a struct; `None` if `btf` does not have the field, is
/// malformed or has the field at an offset of bits.
pub(crate) fn find(btf: &[u8], of: &str, field: &str) -> Option<u64> {
    if u16::from_ne_bytes(btf.get(..2)?.try_into().ok()?) != MAGIC {
        return None;
    }
    let header = |at| word(btf, at).map(|w| w as usize);
    let body = header(4)?;
    let (types_at, types_len) = (body + header(8)?, header(12)?);
    let strings = btf.get(body + header(16)?..)?;
    let types = btf.get(types_at..types_at.checked_add(types_len)?)?;
    let mut at = 0;
    while at < types.len() {
        let (name, info) = (word(types, at)?, word(types, at + 4)?);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        at += 12;
        if kind == STRUCT && string(strings, name)? == of.as_bytes() {
            let with_bit_sizes = info >> 31 == 1;
            return (0..count).find_map(|i| {
                let member = at + 12 * i;
                (string(strings, word(types, member)?)? == field.as_bytes()).then_some(())?;
                let offset = word(types, member + 8)?;
                let bits = if with_bit_sizes { offset & 0x00ff_ffff } else { offset };
                (bits % 8 == 0).then_some(u64::from(bits / 8))
            });
        }
        at += trailer(kind, count)?;
    }
    None
}

/// The bytes that follow the common part of a type.
fn trailer(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,              // INT, VAR, DECL_TAG
        3 => 12,                       // ARRAY
        4 | 5 | 15 | 19 => 12 * count, // STRUCT, UNION, DATASEC, ENUM64
        6 | 13 => 8 * count,           // ENUM, FUNC_PROTO
        2 | 7..=12 | 16 | 18 => 0, // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn string(strings: &[u8], at: u32) -> Option<&[u8]> {
    strings.get(at as usize..)?.split(|&b| b == 0).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An int, then `struct pair { int a; int b; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0pair\0a\0b\0";
        let types: [u32; 13] = [1, 1 << 24, 4, 32, 5, STRUCT << 24 | 2, 8, 10, 1, 0, 12, 1, 32];
        let mut btf = Vec::new();
        btf.extend(MAGIC.to_ne_bytes());
        btf.extend([1, 0]);
        for w in [24, 0, 4 * types.len() as u32, 4 * types.len() as u32, strings.len() as u32] {
            btf.extend(u32::to_ne_bytes(w));
        }
        for w in types {
            btf.extend(w.to_ne_bytes());
        }
        btf.extend(strings);
        btf
    }

    #[test]
    fn a_field_is_found_by_its_struct_and_name() {
        assert_eq!(find(&sample(), "pair", "a"), Some(0));
        assert_eq!(find(&sample(), "pair", "b"), Some(4));
        assert_eq!(find(&sample(), "pair", "c"), None);
        assert_eq!(find(&sample(), "int", "a"), None);
    }

    #[test]
    fn a_running_kernel_with_btf_has_the_field() {
        if fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false) {
            let offset = field_offset("tcp_sock", "bytes_acked").unwrap();
            assert!(offset.is_multiple_of(8) && offset > 500, "{offset}");
        }
    }

    proptest! {
        #[test]
        fn damaged_input_causes_no_panic(at in 0usize..200, value in any::<u8>(), cut in 0usize..200) {
            let mut btf = sample();
            let at = at % btf.len();
            btf[at] = value;
            btf.truncate(btf.len().saturating_sub(cut % 60));
            let _ = find(&btf, "pair", "b");
        }
    }
}
