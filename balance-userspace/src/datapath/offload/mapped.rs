//! An array that the BPF program and user space share, mapped into this process.
//!
//! Invariant: an element is where the array has it for as long as the mapping lives; how its
//! fields may be touched is the business of whoever gets the pointer.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
};

/// The elements, by slot.
#[derive(Debug)]
pub(crate) struct Mapped<T> {
    base: NonNull<T>,
    count: usize,
    _elements: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process and not to a thread, and what can be done here, from any
// thread, is to compute addresses in it; no reference to an element is ever made.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above; nothing here changes after it was made.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps the array behind `map`, which has `count` elements and was made mappable.
    pub(crate) fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody. Of a
        // length beyond the array's the kernel makes none.
        let base = unsafe {
            let len = count * size_of::<T>();
            libc::mmap(std::ptr::null_mut(), len, protection, flags, map.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base, count, _elements: PhantomData })
    }

    /// The element in a slot.
    pub(crate) fn get(&self, slot: u32) -> NonNull<T> {
        assert!((slot as usize) < self.count, "slot {slot} is beyond the array");
        // SAFETY: within the mapping, by the assertion and by the length that it was made with.
        unsafe { self.base.add(slot as usize) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the whole mapping made in `map`, which is ours alone; whoever has an address in it
        // borrows us.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}
