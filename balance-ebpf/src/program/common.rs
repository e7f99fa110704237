//! What every program needs.
//!
//! Invariant: what is here is right for any program, of whatever type.

use core::arch::asm;

/// The BPF instruction of that name (cpu v3), a full barrier; says what was there before: `core` has
/// none for this target. If something else was there it is no barrier on some processors.
///
/// # Safety
/// `word` must be an aligned word of a map value.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, current: u64, new: u64) -> u64 {
    let mut seen = current;
    // SAFETY: the word is one, as the caller promises, and no register but those named is touched.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inout("r0") seen,
        );
    }
    seen
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
