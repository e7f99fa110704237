//! Buffers for bytes that pass through user space.
//!
//! Invariant: a connection has a buffer only from the read of its bytes to their last write. A
//! worker keeps a few free buffers for reuse, so an idle connection costs none.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    rc::Rc,
};

/// Bytes of a buffer. It is large, because each read costs system calls, wake-ups and a window
/// update; see bench/README.md. Pages that no read fills are never allocated.
const SIZE: usize = 1 << 20;

/// The most free buffers that a worker keeps.
const MAX_FREE: usize = 4;

/// The free buffers of one worker.
#[derive(Clone, Default)]
pub(crate) struct BufferPool(Rc<RefCell<Vec<Box<[u8]>>>>);

impl BufferPool {
    /// Takes a free buffer, or allocates a buffer. There are never more buffers than directions
    /// with bytes to send.
    pub(crate) fn take(&self) -> Buffer {
        let bytes = self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; SIZE].into_boxed_slice());
        Buffer { bytes, pool: self.clone() }
    }
}

/// A buffer in use. Dropping it returns it to its pool.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    pool: BufferPool,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.pool.0.borrow_mut();
        if free.len() < MAX_FREE {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_used_again() {
        let pool = BufferPool::default();
        let first = pool.take();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.take().as_ptr(), address);
    }

    #[test]
    fn a_worker_keeps_only_a_few_buffers() {
        let pool = BufferPool::default();
        let buffers: Vec<Buffer> = (0..3 * MAX_FREE).map(|_| pool.take()).collect();
        drop(buffers);
        assert_eq!(pool.0.borrow().len(), MAX_FREE);
    }
}
