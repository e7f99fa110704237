//! Sequence numbers of TCP: they wrap, so order exists only between numbers less than 2^31 apart.
//!
//! Invariant: nothing here compares two numbers as integers.

/// Whether `a` comes after `b`.
#[inline(always)]
pub const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// Whichever comes later.
#[inline(always)]
pub const fn later(a: u32, b: u32) -> u32 {
    if is_after(a, b) { a } else { b }
}
