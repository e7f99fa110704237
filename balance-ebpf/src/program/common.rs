//! What every program needs.
//!
//! Invariant: a word that is given to an instruction is an aligned word of a map value.

use core::arch::asm;

/// The BPF instruction of that name (cpu v3), a full barrier; says what was there before: `core` has
/// none for this target.
#[inline(always)]
pub(crate) fn compare_exchange(word: *mut u64, current: u64, new: u64) -> u64 {
    let mut seen = current;
    // SAFETY: as the head of the file says.
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
