//! The part of the library that only BPF programs need.
//!
//! Invariant: nothing here depends on the type of the program.

/// The programs contain no panic: each access has a check that the compiler can see. The compiler asks
/// for a handler nevertheless.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
