//! A BPF array that the program and user space share, mapped into this process.
//!
//! Invariant: an element stays at its address while the mapping exists. The user of an element's
//! pointer decides how the fields may be accessed.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
};

/// The elements of the array, by slot.
#[derive(Debug)]
pub(crate) struct Mapped<T> {
    base: NonNull<T>,
    count: usize,
    _elements: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process and not to a thread. This type only computes addresses
// in the mapping, and never creates a reference to an element.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above, and the fields never change.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps the array `map`, which has `count` elements and the flag BPF_F_MMAPABLE.
    pub(crate) fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the kernel chooses the address, so the mapping replaces no other. The kernel
        // refuses a length beyond the array's.
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

    /// The address of the element in a slot.
    ///
    /// # Panics
    /// When the array has no such slot.
    pub(crate) fn get(&self, slot: u32) -> NonNull<T> {
        assert!((slot as usize) < self.count, "slot {slot} is beyond the array");
        // SAFETY: within the mapping, by the assertion and by the length of the mapping.
        unsafe { self.base.add(slot as usize) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the whole mapping that `map` made. This value owns it, and every user of an
        // address in it borrows this value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}
