//! A queue between threads that must not wait and a reader that may have stopped reading.
//!
//! Invariants: [`Queue::push`] never waits for the sink; a piece is written whole and in order, or is
//! lost whole and counted; the queue holds at most [`ROOM`] bytes that wait, and the writer as many that
//! are being written.

use std::{
    io,
    mem::take,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Bytes that may wait.
pub(super) const ROOM: usize = 1 << 20;

/// What a piece costs beside its bytes.
const OVERHEAD: usize = size_of::<usize>();

/// Pieces of text, one behind the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each piece ends.
    ends: Vec<usize>,
}

#[derive(Default)]
struct State {
    waiting: Batch,
    /// The writer has taken a batch and is not through with it.
    is_writing: bool,
    has_writer: bool,
    lost: u64,
}

/// The queue. It holds what is pushed before its writer has begun.
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

    /// Adds a piece, or counts it as lost when there is no room.
    pub(super) fn push(&self, piece: &[u8]) {
        let mut state = self.lock();
        let Batch { bytes, ends } = &mut state.waiting;
        if bytes.len() + ends.len() * OVERHEAD + piece.len() > ROOM {
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

    /// Pieces lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// Starts the thread that writes, once. It calls `recovered` with the pieces lost so far when
    /// there are more of them than before and the sink has taken a piece again.
    pub(super) fn begin(
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
        let mut told = 0;
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
            if is_open && lost > told {
                told = lost;
                recovered(lost);
            }
            self.lock().is_writing = false;
            self.written.notify_all();
        }
    }

    /// Waits for something to write, and takes all of it.
    fn next(&self) -> Batch {
        let is_empty = |state: &mut State| state.waiting.ends.is_empty();
        let state = self.filled.wait_while(self.lock(), is_empty);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.is_writing = true;
        take(&mut state.waiting)
    }

    /// Waits until everything is written, so long at most.
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
        queue.begin("test", sink, |_| {});
        queue.push(b"two\nlines\n");
        queue.push(b"");
        queue.flush(LONG);
        let seen: Vec<_> = seen.try_iter().collect();
        assert_eq!(seen, [&b"before\n"[..], b"two\nlines\n", b""]);
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn a_sink_that_stands_still_costs_no_time_and_what_is_lost_is_told_when_it_goes_on() {
        let (queue, (go_on, gate)) = (queue(), mpsc::channel::<()>());
        let (sent, seen) = mpsc::channel();
        let (say, told) = mpsc::channel();
        let sink = move |piece: &[u8]| {
            let _ = gate.recv();
            sent.send(piece.len()).map_err(io::Error::other)
        };
        queue.begin("test", sink, move |lost| say.send(lost).unwrap());
        let piece = vec![b'x'; 1000];
        for _ in 0..5 * ROOM / piece.len() {
            queue.push(&piece);
        }
        let lost = queue.lost();
        let kept = (5 * ROOM / piece.len()) as u64 - lost;
        assert!(kept * 1000 <= 2 * ROOM as u64, "{kept} pieces are held");
        queue.flush(Duration::from_millis(1));
        drop(go_on);
        queue.flush(LONG);
        assert_eq!(seen.try_iter().count() as u64, kept);
        assert_eq!(told.try_iter().last(), Some(lost));
    }

    #[test]
    fn what_the_sink_refuses_is_lost_and_not_told_until_it_takes_something() {
        let (queue, (say, told)) = (queue(), mpsc::channel());
        let mut refuse = 2;
        let sink = move |_: &[u8]| {
            refuse -= 1;
            if refuse >= 0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        };
        queue.begin("test", sink, move |lost| say.send(lost).unwrap());
        for expected in [None, None, Some(2), None] {
            queue.push(b"x");
            queue.flush(LONG);
            assert_eq!(told.try_iter().last(), expected);
        }
        assert_eq!(queue.lost(), 2);
    }
}
