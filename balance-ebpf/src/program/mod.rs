//! The part of the library that only BPF programs need.
//!
//! Invariant: nothing here depends on the type of the program.

/// The compiler requires a panic handler. The verifier rejects a program that could reach this
/// endless loop.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
