//! Words of memory that a BPF program and user space use at the same time.
//!
//! A BPF program reads and writes a word by volatile instructions, because relaxed 64-bit atomic
//! loads do not lower on the BPF target. `core` has no compare-exchange there, so the program uses
//! the BPF instruction (cpu v3). User space uses atomics. Every method names its memory order.
//!
//! Invariants: every access reads or writes a whole aligned word. Any bits in memory are a value:
//! the conversion to an enum is checked.

use core::{cell::UnsafeCell, fmt};

/// An integer that one instruction reads or writes.
pub trait Bits: Copy + private::Access {}

impl Bits for u8 {}
impl Bits for u32 {}
impl Bits for u64 {}

/// A value that fits into one word.
pub trait WordValue: Copy {
    /// The integer in memory.
    type Bits: Bits;

    /// The value that these bits mean. Any bits are allowed.
    fn from_bits(bits: Self::Bits) -> Self;

    /// The bits that mean the value.
    fn to_bits(self) -> Self::Bits;
}

macro_rules! integer {
    ($($type:ident)*) => {$(
        impl WordValue for $type {
            type Bits = Self;

            #[inline(always)]
            fn from_bits(bits: Self) -> Self {
                bits
            }

            #[inline(always)]
            fn to_bits(self) -> Self {
                self
            }
        }
    )*};
}

integer!(u8 u32 u64);

impl WordValue for bool {
    type Bits = u32;

    #[inline(always)]
    fn from_bits(bits: u32) -> Self {
        // Without a branch, see `Side::from_bit`.
        bits & 1 != 0
    }

    #[inline(always)]
    fn to_bits(self) -> u32 {
        u32::from(self)
    }
}

/// Makes an enum with the values 0 to 3 a value of a word. Only the lowest two bits count.
///
/// The conversion has no branch, see [`Side::from_bit`](super::Side::from_bit).
macro_rules! word_enum {
    ($type:ident: $bits:ident = [$($variant:ident),*]) => {
        // All variants, with the values 0 to 3, in the size of the word.
        const _: () = {
            const fn bits(value: $type) -> $bits {
                match value {
                    $($type::$variant => value as $bits,)*
                }
            }
            let mut number = 0;
            $(
                assert!(bits($type::$variant) == number);
                number += 1;
            )*
            assert!(number == 4 && size_of::<$type>() == size_of::<$bits>());
        };

        impl $crate::shared::WordValue for $type {
            type Bits = $bits;

            #[inline(always)]
            fn from_bits(bits: $bits) -> Self {
                // SAFETY: 0 to 3 are the values of the enum, which has the size of the word.
                unsafe { core::mem::transmute(bits & 3) }
            }

            #[inline(always)]
            fn to_bits(self) -> $bits {
                self as $bits
            }
        }
    };
}

pub(crate) use word_enum;

/// One word in shared memory.
#[repr(transparent)]
pub struct Word<T: WordValue>(UnsafeCell<T::Bits>);

// SAFETY: all accesses from Rust on the host are atomic, and a BPF program accesses whole words.
unsafe impl<T: WordValue> Sync for Word<T> {}

impl<T: WordValue> Word<T> {
    /// A word with this value.
    #[inline(always)]
    pub fn new(value: T) -> Self {
        Self(UnsafeCell::new(value.to_bits()))
    }

    /// Reads the value. Orders nothing.
    #[inline(always)]
    pub fn load_relaxed(&self) -> T {
        // SAFETY: the pointer is that of a whole aligned word.
        T::from_bits(unsafe { private::Access::load_relaxed(self.0.get()) })
    }

    /// Writes the value. Orders nothing.
    #[inline(always)]
    pub fn store_relaxed(&self, value: T) {
        // SAFETY: as in `load_relaxed`.
        unsafe { private::Access::store_relaxed(self.0.get(), value.to_bits()) };
    }

    /// Replaces `current` by `new`. Returns the value before. A full barrier if the value was
    /// `current`; otherwise no barrier on some processors.
    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    pub fn compare_exchange(&self, current: T, new: T) -> T
    where
        T::Bits: bpf::Exchange,
    {
        // SAFETY: as in `load_relaxed`.
        T::from_bits(unsafe {
            bpf::Exchange::compare_exchange(self.0.get(), current.to_bits(), new.to_bits())
        })
    }
}

#[cfg(target_arch = "bpf")]
impl Word<u64> {
    /// Sets bits atomically. Orders nothing.
    #[inline(always)]
    pub fn fetch_or_relaxed(&self, bits: u64) {
        // SAFETY: the pointer is that of a whole aligned word. The instruction changes no register.
        unsafe {
            core::arch::asm!(
                "lock *(u64 *)({word} + 0) |= {bits}",
                word = in(reg) self.0.get(),
                bits = in(reg) bits,
            );
        }
    }
}

#[cfg(target_arch = "bpf")]
impl Word<u32> {
    /// Adds to the value by a load and a store. Two processors at the same time may lose an
    /// addition.
    #[inline(always)]
    pub fn add_unsynchronized(&self, more: u32) {
        self.store_relaxed(self.load_relaxed() + more);
    }
}

#[cfg(target_arch = "bpf")]
mod bpf {
    use core::arch::asm;

    /// Integers for which BPF has a compare-exchange instruction.
    pub trait Exchange: Copy {
        /// # Safety
        /// `word` must point to an aligned word of a map value.
        unsafe fn compare_exchange(word: *mut Self, current: Self, new: Self) -> Self;
    }

    impl Exchange for u64 {
        #[inline(always)]
        unsafe fn compare_exchange(word: *mut Self, current: Self, new: Self) -> Self {
            let mut seen = current;
            // SAFETY: as the caller promises. The instruction changes no register but `r0`.
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
    }

    impl Exchange for u32 {
        #[inline(always)]
        unsafe fn compare_exchange(word: *mut Self, current: Self, new: Self) -> Self {
            let mut seen = current;
            // SAFETY: as the caller promises. The instruction changes no register but `w0`.
            unsafe {
                asm!(
                    "w0 = cmpxchg32_32({word} + 0, w0, {new})",
                    word = in(reg) word,
                    new = in(wreg) new,
                    inout("w0") seen,
                );
            }
            seen
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
mod user {
    use core::sync::atomic::Ordering::SeqCst;

    use super::{Word, WordValue, private::Access as _};

    impl<T: WordValue> Word<T> {
        /// Reads the value, sequentially consistent.
        pub fn load_seq_cst(&self) -> T {
            // SAFETY: the pointer is that of a whole aligned word.
            T::from_bits(unsafe { T::Bits::load_seq_cst(self.0.get()) })
        }

        /// Writes the value, sequentially consistent.
        pub fn store_seq_cst(&self, value: T) {
            // SAFETY: as in `load_seq_cst`.
            unsafe { T::Bits::store_seq_cst(self.0.get(), value.to_bits()) };
        }

        /// Replaces `current` by `new`, sequentially consistent. Returns whether the value was
        /// `current`.
        pub fn compare_exchange_seq_cst(&self, current: T, new: T) -> bool {
            // SAFETY: as in `load_seq_cst`.
            unsafe {
                T::Bits::compare_exchange_seq_cst(self.0.get(), current.to_bits(), new.to_bits())
            }
        }

        /// Changes the value by a function until no other writer intervenes, sequentially
        /// consistent. The value stays if the function returns `None`. Returns the value before.
        pub fn update_seq_cst(&self, change: impl Fn(T) -> Option<T>) -> T {
            loop {
                let seen = self.load_seq_cst();
                match change(seen) {
                    Some(new) if !self.compare_exchange_seq_cst(seen, new) => {}
                    _ => return seen,
                }
            }
        }
    }

    macro_rules! as_atomic {
        ($type:ident, $atomic:ident) => {
            impl Word<$type> {
                /// The word as an atomic, for orders and operations that only user space has.
                pub fn as_atomic(&self) -> &core::sync::atomic::$atomic {
                    // SAFETY: a whole aligned word, which all accesses on the host change
                    // atomically.
                    unsafe { core::sync::atomic::$atomic::from_ptr(self.0.get()) }
                }
            }
        };
    }

    as_atomic!(u32, AtomicU32);
    as_atomic!(u64, AtomicU64);

    impl Word<u64> {
        /// Clears all bits but these, sequentially consistent. Returns the value before.
        pub fn fetch_and_seq_cst(&self, bits: u64) -> u64 {
            self.as_atomic().fetch_and(bits, SeqCst)
        }
    }
}

mod private {
    /// How an integer in shared memory is read and written.
    pub trait Access: Copy {
        /// # Safety
        /// `word` must point to an aligned word in shared memory.
        unsafe fn load_relaxed(word: *mut Self) -> Self;
        /// # Safety
        /// As for `load_relaxed`.
        unsafe fn store_relaxed(word: *mut Self, value: Self);
        /// # Safety
        /// As for `load_relaxed`.
        #[cfg(not(target_arch = "bpf"))]
        unsafe fn load_seq_cst(word: *mut Self) -> Self;
        /// # Safety
        /// As for `load_relaxed`.
        #[cfg(not(target_arch = "bpf"))]
        unsafe fn store_seq_cst(word: *mut Self, value: Self);
        /// # Safety
        /// As for `load_relaxed`.
        #[cfg(not(target_arch = "bpf"))]
        unsafe fn compare_exchange_seq_cst(word: *mut Self, current: Self, new: Self) -> bool;
    }

    #[cfg(target_arch = "bpf")]
    macro_rules! access {
        ($type:ident, $atomic:ident) => {
            impl Access for $type {
                #[inline(always)]
                unsafe fn load_relaxed(word: *mut Self) -> Self {
                    // SAFETY: as the caller promises.
                    unsafe { word.read_volatile() }
                }

                #[inline(always)]
                unsafe fn store_relaxed(word: *mut Self, value: Self) {
                    // SAFETY: as the caller promises.
                    unsafe { word.write_volatile(value) };
                }
            }
        };
    }

    #[cfg(not(target_arch = "bpf"))]
    macro_rules! access {
        ($type:ident, $atomic:ident) => {
            impl Access for $type {
                unsafe fn load_relaxed(word: *mut Self) -> Self {
                    // SAFETY: as the caller promises; all accesses on the host are atomic.
                    unsafe { $atomic::from_ptr(word) }.load(Relaxed)
                }

                unsafe fn store_relaxed(word: *mut Self, value: Self) {
                    // SAFETY: as in `load_relaxed`.
                    unsafe { $atomic::from_ptr(word) }.store(value, Relaxed);
                }

                unsafe fn load_seq_cst(word: *mut Self) -> Self {
                    // SAFETY: as in `load_relaxed`.
                    unsafe { $atomic::from_ptr(word) }.load(SeqCst)
                }

                unsafe fn store_seq_cst(word: *mut Self, value: Self) {
                    // SAFETY: as in `load_relaxed`.
                    unsafe { $atomic::from_ptr(word) }.store(value, SeqCst);
                }

                unsafe fn compare_exchange_seq_cst(
                    word: *mut Self,
                    current: Self,
                    new: Self,
                ) -> bool {
                    // SAFETY: as in `load_relaxed`.
                    let word = unsafe { $atomic::from_ptr(word) };
                    word.compare_exchange(current, new, SeqCst, SeqCst).is_ok()
                }
            }
        };
    }

    #[cfg(not(target_arch = "bpf"))]
    use core::sync::atomic::{
        AtomicU8, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    };

    access!(u8, AtomicU8);
    access!(u32, AtomicU32);
    access!(u64, AtomicU64);
}

impl<T: WordValue + Default> Default for Word<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: WordValue + fmt::Debug> fmt::Debug for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load_relaxed().fmt(f)
    }
}

/// A value that lies in shared memory as one or more words.
pub trait Shared: Copy {
    /// The value's layout in shared memory.
    type Memory;

    /// The value as a new piece of memory.
    fn into_memory(self) -> Self::Memory;

    /// Reads each word. Orders nothing; other writers may change a word between two reads.
    fn load_relaxed(memory: &Self::Memory) -> Self;

    /// Writes each word. Orders nothing.
    fn store_relaxed(self, memory: &Self::Memory);
}

impl<T: WordValue> Shared for T {
    type Memory = Word<T>;

    #[inline(always)]
    fn into_memory(self) -> Word<T> {
        Word::new(self)
    }

    #[inline(always)]
    fn load_relaxed(memory: &Word<T>) -> Self {
        memory.load_relaxed()
    }

    #[inline(always)]
    fn store_relaxed(self, memory: &Word<T>) {
        memory.store_relaxed(self);
    }
}

impl<T: Shared, const N: usize> Shared for [T; N] {
    type Memory = [T::Memory; N];

    #[inline(always)]
    fn into_memory(self) -> Self::Memory {
        self.map(T::into_memory)
    }

    #[inline(always)]
    fn load_relaxed(memory: &Self::Memory) -> Self {
        core::array::from_fn(|i| T::load_relaxed(&memory[i]))
    }

    #[inline(always)]
    fn store_relaxed(self, memory: &Self::Memory) {
        for (value, word) in self.into_iter().zip(memory) {
            value.store_relaxed(word);
        }
    }
}

/// Defines a struct and its layout in shared memory, which has a word for each field.
macro_rules! shared_struct {
    (
        $(#[$about:meta])*
        $vis:vis struct $value:ident, in memory $memory:ident $(: $align:meta)? {
            $($(#[$about_field:meta])* pub $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $vis struct $value {
            $($(#[$about_field])* pub $field: $type,)*
        }

        #[doc = concat!("[`", stringify!($value), "`] in shared memory.")]
        #[repr(C)]
        $(#[$align])?
        #[derive(Debug, Default)]
        $vis struct $memory {
            $($(#[$about_field])* pub $field: <$type as $crate::Shared>::Memory,)*
        }

        impl $crate::Shared for $value {
            type Memory = $memory;

            #[inline(always)]
            fn into_memory(self) -> $memory {
                $memory { $($field: $crate::Shared::into_memory(self.$field),)* }
            }

            #[inline(always)]
            fn load_relaxed(memory: &$memory) -> Self {
                Self { $($field: $crate::Shared::load_relaxed(&memory.$field),)* }
            }

            #[inline(always)]
            fn store_relaxed(self, memory: &$memory) {
                $($crate::Shared::store_relaxed(self.$field, &memory.$field);)*
            }
        }
    };
}

pub(crate) use shared_struct;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::thread;

    shared_struct! {
        /// A struct with words of all sizes.
        struct Sample, in memory SampleWords: repr(align(16)) {
            /// Eight bytes.
            pub large: u64,
            /// Four bytes each.
            pub array: [u32; 2],
            /// Four bytes.
            pub flag: bool,
            /// One byte.
            pub small: u8,
        }
    }

    #[test]
    fn a_struct_survives_shared_memory() {
        let sample = Sample { large: 1 << 40, array: [1, 2], flag: true, small: 3 };
        let words = sample.into_memory();
        assert_eq!((size_of_val(&words), align_of_val(&words)), (32, 16));
        assert_eq!(Sample::load_relaxed(&words), sample);
        Sample::default().store_relaxed(&words);
        assert_eq!(Sample::load_relaxed(&words), Sample::default());
    }

    #[test]
    fn any_bits_are_a_flag() {
        let word = Word::<bool>::new(true);
        assert!(word.load_seq_cst());
        assert!(bool::from_bits(7) && !bool::from_bits(0));
    }

    #[test]
    fn no_change_of_two_writers_is_lost() {
        const CHANGES: u64 = if cfg!(miri) { 50 } else { 10_000 };
        let word = Word::<u64>::default();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..CHANGES {
                        word.update_seq_cst(|seen| Some(seen + 1));
                    }
                });
            }
        });
        assert_eq!(word.load_relaxed(), 2 * CHANGES);
        assert_eq!(word.update_seq_cst(|_| None), 2 * CHANGES);
        assert_eq!(word.fetch_and_seq_cst(0), 2 * CHANGES);
    }
}
