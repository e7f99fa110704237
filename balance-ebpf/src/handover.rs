//! How a flow changes hands: the steps of the BPF program, and of user space, on the words that
//! they share.
//!
//! Generic over where the words are, so that `model.rs` checks the very code that runs: the
//! program has them in a map, user space in a mapping. Invariants: those of [`Flow`](crate::Flow),
//! whose order rests on three things. Whoever sets `state` releases what it has written, and whoever
//! is told by it that the rest is its own has acquired that. The program counts a packet as
//! redirected before it gives the flow up, so whoever finds the flow in USER finds all that was
//! redirected counted. And user space takes USER back with the count of bytes that it has relayed,
//! so that fails if one more was passed.

use core::cell::Cell;

use crate::flow::{Backlog, KERNEL, USER, passed};

/// The words of a flow as the program reaches them. Its processor may be one that reorders.
pub trait ProgramWords {
    /// `state` at about this moment; nothing is acquired.
    fn glance(&self) -> u64;

    /// Puts `new` in the place of `current`; says what was there. Acquires and releases if that was
    /// `current`, and does neither otherwise.
    fn exchange(&self, current: u64, new: u64) -> u64;

    /// Counts `len` bytes as redirected; says how many that makes in all.
    fn add_redirected(&self, len: u32) -> u64;

    /// Works on the backlog, which is the program's at this moment.
    fn backlog<R>(&self, work: impl FnOnce(&mut Backlog) -> R) -> R;
}

/// The words of a flow as user space reaches them.
pub trait UserWords {
    /// `state`; acquires.
    fn state(&self) -> u64;

    /// Puts `new` in the place of `current`, and releases; false if something else was there.
    fn exchange(&self, current: u64, new: u64) -> bool;

    /// Bytes redirected in all; what was counted before the `state` that was acquired is among them.
    fn redirected(&self) -> u64;

    /// Works on the backlog, which is user space's at this moment.
    fn backlog(&self, work: impl FnOnce(&mut Backlog));
}

/// What becomes of a packet with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It is left to user space.
    Pass,
    /// It is queued on the target.
    Redirect,
    /// The same, and it is the last: user space has been told that the flow is its own.
    GiveUp,
}

/// The program's half: what becomes of a packet of `len` bytes that has arrived. `other` is the flow
/// in the other direction; `tell` tells user space that this one has changed hands, false if it
/// cannot; `target` says what the target has written in all, and what memory its send queue takes;
/// `is_clear` says whether the source has written all that was redirected to it. Called for one packet
/// of a flow at a time.
#[inline(always)]
pub fn arrive<W: ProgramWords>(
    flow: &W,
    other: Option<&W>,
    len: u32,
    limit: u32,
    tell: impl Fn() -> bool,
    target: impl FnOnce() -> Option<(u64, u32)>,
    is_clear: impl FnOnce() -> bool,
) -> Course {
    if pass(flow, len) || follow(flow, other, len, &tell, is_clear) {
        Course::Pass
    } else if redirect(flow, len, limit, &tell, target) {
        Course::GiveUp
    } else {
        Course::Redirect
    }
}

/// Counts the packet as passed if the flow is in USER; false if it is in KERNEL.
#[inline(always)]
fn pass(flow: &impl ProgramWords, len: u32) -> bool {
    // A bare load would acquire nothing of what user space has left in the backlog.
    let seen = flow.exchange(KERNEL, KERNEL);
    if seen == KERNEL {
        return false;
    }
    if flow.exchange(seen, seen + u64::from(len)) == seen {
        return true;
    }
    // In USER only we add to the word, and user space only ever takes it to KERNEL: it just did. The
    // exchange that failed has not acquired that.
    flow.exchange(KERNEL, KERNEL);
    false
}

/// Hands a flow over whose other direction is with user space, its packet passed; false if the
/// flow stays in the kernel. It stays until the source has written what was redirected to it, which is
/// soon: a passed packet queues behind that, and is lost with it if the source is reset.
#[inline(always)]
fn follow<W: ProgramWords>(
    flow: &W,
    other: Option<&W>,
    len: u32,
    tell: &impl Fn() -> bool,
    is_clear: impl FnOnce() -> bool,
) -> bool {
    let Some(other) = other else {
        return false;
    };
    let passed = USER + u64::from(len);
    if other.glance() & USER == 0 || !is_clear() || flow.exchange(KERNEL, passed) != KERNEL {
        return false;
    }
    // If nobody can be told the packet is redirected like those before it. No packet can have
    // been passed meanwhile: that is done by this program, one packet at a time.
    tell() || flow.exchange(passed, KERNEL) != passed
}

/// Accounts for a packet about to be redirected; true if it hands the flow over, because too much is
/// owed.
#[inline(always)]
fn redirect(
    flow: &impl ProgramWords,
    len: u32,
    limit: u32,
    tell: &impl Fn() -> bool,
    target: impl FnOnce() -> Option<(u64, u32)>,
) -> bool {
    let sum = flow.add_redirected(len);
    let is_over = flow.backlog(|backlog| {
        backlog.charge(len)
            && target().is_some_and(|(written, queued)| backlog.judge(written, queued, sum, limit))
    });
    if !is_over || flow.exchange(KERNEL, USER) != KERNEL {
        return false;
    }
    // If nobody can be told we keep it. No packet can have been passed meanwhile, as above: if this
    // fails user space has taken the flow back by itself.
    tell() || flow.exchange(USER, KERNEL) != USER
}

/// How much of what the target has written is whose.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// What the target had written when nothing had been redirected, plus all that user space
    /// has sent since it last had everything in order.
    base: u64,
    /// `redirected` up to which the target is known to have written everything.
    settled: u64,
    /// Bytes relayed since the flow last came to user space: to compare with those passed.
    relayed: u64,
}

/// User space's half.
#[derive(Debug)]
pub struct UserEnd<W> {
    /// The words.
    pub words: W,
    account: Cell<Account>,
}

impl<W: UserWords> UserEnd<W> {
    /// For a flow that is in USER with nothing moved.
    pub fn new(words: W) -> Self {
        Self { words, account: Cell::default() }
    }

    /// Whether the kernel moves the bytes.
    pub fn is_in_kernel(&self) -> bool {
        passed(self.words.state()).is_none()
    }

    /// Whether every byte that was passed has been relayed; true while the kernel has the flow.
    pub fn has_relayed_all(&self) -> bool {
        passed(self.words.state()).is_none_or(|passed| passed == self.account.get().relayed)
    }

    /// The redirected bytes of which it is not known that the target has written them all: as many
    /// have been redirected by now. Asked with a passed byte in hand, all are among them that were
    /// redirected before it.
    pub fn unsettled(&self) -> Option<u64> {
        let redirected = self.words.redirected();
        (redirected != self.account.get().settled).then_some(redirected)
    }

    /// Whether a target that has `written` so much in all, as was found after asking how many bytes
    /// were [`unsettled`](Self::unsettled), has written those.
    pub fn settle(&self, redirected: u64, written: u64) -> bool {
        let account = self.account.get();
        let is_settled = written.wrapping_sub(account.base) >= redirected;
        if is_settled {
            self.account.set(Account { settled: redirected, ..account });
        }
        is_settled
    }

    /// Notes that user space has sent so many passed bytes, with all settled before.
    pub fn relayed(&self, bytes: u64) {
        let Account { base, settled, relayed } = self.account.get();
        self.account.set(Account { base: base + bytes, settled, relayed: relayed + bytes });
    }

    /// Says that no packet will come any more, so that the other direction need not wait for
    /// this one to go back to the kernel.
    pub fn retire(&self) -> bool {
        self.words.exchange(USER | self.account.get().relayed, KERNEL)
    }

    /// Whether every byte that was passed has been relayed, and nothing redirected is pending.
    fn could_go(&self) -> bool {
        let account = self.account.get();
        passed(self.words.state()) == Some(account.relayed)
            && self.words.redirected() == account.settled
    }

    /// Sets the account up for the kernel: the target has `written` so much.
    fn open(&self, written: u64) {
        let account = self.account.get();
        let base = written.wrapping_sub(account.settled);
        self.account.set(Account { base, ..account });
    }

    /// Hands the flow to the kernel, unless another byte has been passed.
    fn go(&self) -> bool {
        let account = self.account.get();
        if passed(self.words.state()) != Some(account.relayed) {
            return false;
        }
        let redirected = self.words.redirected();
        self.words.backlog(|backlog| backlog.restart(account.base, redirected));
        let promoted = self.retire();
        if promoted {
            self.account.set(Account { relayed: 0, ..account });
        }
        promoted
    }
}

/// Hands flow `i` to the kernel if every byte that was passed has been relayed and the target has
/// room; and the flow in the other direction with it, as they must be together. Says which of the
/// two have gone. `room` says what the target of a flow has written, if it can take what the kernel
/// may redirect.
///
/// # Errors
/// Those of `room`.
pub fn promote<W: UserWords, E>(
    ends: [&UserEnd<W>; 2],
    i: usize,
    room: impl Fn(usize) -> Result<Option<u64>, E>,
) -> Result<[bool; 2], E> {
    let [way, other] = [ends[i], ends[1 - i]];
    let mut gone = [false; 2];
    // Asked once: a flow that the program hands over while we are here is not in order yet.
    let with_other = !other.is_in_kernel();
    if !way.could_go() || with_other && !other.could_go() {
        return Ok(gone);
    }
    for j in [i, 1 - i].into_iter().take(1 + usize::from(with_other)) {
        match room(j)? {
            Some(written) => ends[j].open(written),
            None => return Ok(gone),
        }
    }
    gone[i] = way.go();
    gone[1 - i] = gone[i] && with_other && other.go();
    Ok(gone)
}

#[cfg(all(test, not(miri)))]
mod model;
