//! A queue between threads that must not wait and a reader that may have stopped reading.
//!
//! Invariants: [`Queue::push`] never waits for the sink. A piece is written as a whole and in
//! order, or it is lost as a whole and counted. At most [`CAPACITY`] bytes wait in the queue, and
//! as many are being written.

use std::{
    io,
    mem::take,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// The most bytes that wait in the queue.
pub(super) const CAPACITY: usize = 1 << 20;

/// Memory of a piece beside its bytes, in bytes.
const OVERHEAD: usize = size_of::<usize>();

/// Pieces of text in one buffer.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// The end of each piece in `bytes`.
    ends: Vec<usize>,
}

#[derive(Default)]
struct State {
    waiting: Batch,
    /// The writer has taken a batch and has not yet written all of it.
    is_writing: bool,
    has_writer: bool,
    lost: u64,
}

/// The queue. Pieces pushed before the writer starts wait in it.
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

impl Queue {
    pub(super) const fn new() -> Self {
        let waiting = Batch { bytes: Vec::new(), ends: Vec::new() };
        let state = State { waiting, is_writing: false, has_writer: false, lost: 0 };
        Self { state: Mutex::new(state), filled: Condvar::new(), written: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a piece, or counts it as lost if the queue is full.
    pub(super) fn push(&self, piece: &[u8]) {
        let mut state = self.lock();
        let Batch { bytes, ends } = &mut state.waiting;
        if bytes.len() + ends.len() * OVERHEAD + piece.len() > CAPACITY {
            state.lost += 1;
            return;
        }
        bytes.extend_from_slice(piece);
        ends.push(bytes.len());
        let is_first = ends.len() == 1;
        drop(state);
        if is_first {
            self.filled.notify_one();
        }
    }

    /// The number of pieces lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// Starts the writer thread, unless it runs already. The thread calls `recovered` with the
    /// number of lost pieces when that number has grown and the sink has accepted a piece again.
    pub(super) fn start_writer(
        &'static self,
        name: &str,
        sink: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
        recovered: impl FnMut(u64) + Send + 'static,
    ) {
        let mut state = self.lock();
        if !state.has_writer {
            let thread = thread::Builder::new().name(name.to_owned());
            state.has_writer = thread.spawn(|| self.write(sink, recovered)).is_ok();
        }
    }

    fn write(&self, mut sink: impl FnMut(&[u8]) -> io::Result<()>, mut recovered: impl FnMut(u64)) {
        let mut reported = 0;
        loop {
            let batch = self.next();
            let (mut start, mut refused, mut is_open) = (0, 0, false);
            for end in batch.ends {
                is_open = sink(&batch.bytes[start..end]).is_ok();
                refused += u64::from(!is_open);
                start = end;
            }
            let lost = {
                let mut state = self.lock();
                state.lost += refused;
                state.lost
            };
            if is_open && lost > reported {
                reported = lost;
                recovered(lost);
            }
            self.lock().is_writing = false;
            self.written.notify_all();
        }
    }

    /// Waits for pieces and takes all of them.
    fn next(&self) -> Batch {
        let is_empty = |state: &mut State| state.waiting.ends.is_empty();
        let state = self.filled.wait_while(self.lock(), is_empty);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.is_writing = true;
        take(&mut state.waiting)
    }

    /// Waits until everything is written, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let state = self.lock();
        if state.has_writer {
            let is_busy = |state: &mut State| state.is_writing || !state.waiting.ends.is_empty();
            drop(self.written.wait_timeout_while(state, limit, is_busy));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn queue() -> &'static Queue {
        Box::leak(Box::new(Queue::new()))
    }

    #[test]
    fn pieces_are_written_whole_and_in_order() {
        let (queue, (sent, seen)) = (queue(), mpsc::channel());
        queue.push(b"before\n");
        let sink = move |piece: &[u8]| sent.send(piece.to_vec()).map_err(io::Error::other);
        queue.start_writer("test", sink, |_| {});
        queue.push(b"two\nlines\n");
        queue.push(b"");
        queue.flush(LONG);
        let seen: Vec<_> = seen.try_iter().collect();
        assert_eq!(seen, [&b"before\n"[..], b"two\nlines\n", b""]);
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn a_blocked_sink_delays_no_push_and_lost_pieces_are_reported_once_it_continues() {
        let (queue, (open_gate, gate)) = (queue(), mpsc::channel::<()>());
        let (sent, seen) = mpsc::channel();
        let (report, reported) = mpsc::channel();
        let sink = move |piece: &[u8]| {
            let _ = gate.recv();
            sent.send(piece.len()).map_err(io::Error::other)
        };
        queue.start_writer("test", sink, move |lost| report.send(lost).unwrap());
        let piece = vec![b'x'; 1000];
        for _ in 0..5 * CAPACITY / piece.len() {
            queue.push(&piece);
        }
        let lost = queue.lost();
        let kept = (5 * CAPACITY / piece.len()) as u64 - lost;
        assert!(kept * 1000 <= 2 * CAPACITY as u64, "{kept} pieces are held");
        queue.flush(Duration::from_millis(1));
        drop(open_gate);
        queue.flush(LONG);
        assert_eq!(seen.try_iter().count() as u64, kept);
        assert_eq!(reported.try_iter().last(), Some(lost));
    }

    #[test]
    fn refused_pieces_are_lost_and_reported_once_the_sink_accepts_one() {
        let (queue, (report, reported)) = (queue(), mpsc::channel());
        let mut refuse = 2;
        let sink = move |_: &[u8]| {
            refuse -= 1;
            if refuse >= 0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        };
        queue.start_writer("test", sink, move |lost| report.send(lost).unwrap());
        for expected in [None, None, Some(2), None] {
            queue.push(b"x");
            queue.flush(LONG);
            assert_eq!(reported.try_iter().last(), expected);
        }
        assert_eq!(queue.lost(), 2);
    }
}
