//! TCP sequence numbers. They wrap, so only numbers less than 2^31 apart have an order.
//!
//! Invariant: nothing here compares two numbers as integers.

/// Whether `a` comes after `b`.
#[inline(always)]
pub const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// The later of two numbers.
#[inline(always)]
pub const fn later(a: u32, b: u32) -> u32 {
    if is_after(a, b) { a } else { b }
}
