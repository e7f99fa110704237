//! Buffers that hold bytes on their way through user space.
//!
//! Invariant: a connection has a buffer only between receiving bytes and having sent them; a
//! worker keeps a few for reuse, so an idle connection costs none.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    rc::Rc,
};

/// Bytes of a buffer: large, because each turn costs system calls, wake-ups and a window update;
/// see bench/README.md. Pages that a turn does not fill are never touched.
const SIZE: usize = 1 << 20;

/// Free buffers that a worker keeps.
const KEPT: usize = 4;

/// The free buffers of one worker.
#[derive(Clone, Default)]
pub(crate) struct BufferPool(Rc<RefCell<Vec<Box<[u8]>>>>);

impl BufferPool {
    /// A free buffer, or a new one: there are never more than connections with bytes to send.
    pub(crate) fn take(&self) -> Buffer {
        let bytes = self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; SIZE].into_boxed_slice());
        Buffer { bytes, pool: self.clone() }
    }
}

/// A buffer on loan; it goes back when dropped.
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
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_given_back_is_used_again() {
        let pool = BufferPool::default();
        let first = pool.take();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.take().as_ptr(), address);
    }

    #[test]
    fn a_worker_keeps_only_a_few_buffers() {
        let pool = BufferPool::default();
        let loan: Vec<Buffer> = (0..3 * KEPT).map(|_| pool.take()).collect();
        drop(loan);
        assert_eq!(pool.0.borrow().len(), KEPT);
    }
}
