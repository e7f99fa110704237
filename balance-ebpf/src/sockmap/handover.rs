//! The hand-over of a flow between kernel and user space: the steps of the BPF program, and of user
//! space, on the words that they share.
//!
//! The steps are generic over the place of the words, so that `model.rs` checks the code that runs.
//! The program has the words in a map, user space in a mapping.
//!
//! Invariants: those of [`Flow`](super::Flow). The order of bytes rests on three rules:
//! - A write of `state` releases everything that the writer has written before. A read of `state`
//!   that makes the rest of the flow the reader's own acquires it.
//! - The program counts a packet as redirected before it gives the flow up. So user space, when it
//!   finds the flow in USER, finds all redirected bytes counted.
//! - User space takes USER back with the number of bytes that it has relayed. The exchange fails if
//!   the program has passed one more.

use core::cell::Cell;

use super::flow::{Backlog, KERNEL, USER, passed};
use crate::shared::{PerSide, Side};

/// The words of a flow as the program accesses them. Its processor may reorder accesses.
pub trait ProgramWords {
    /// Reads `state`. Acquires nothing.
    fn load_relaxed(&self) -> u64;

    /// Replaces `current` by `new` in `state`. Returns the value before. Acquires and releases if
    /// that was `current`, and does neither otherwise.
    fn exchange(&self, current: u64, new: u64) -> u64;

    /// Counts `len` bytes as redirected. Returns the sum.
    fn add_redirected(&self, len: u32) -> u64;

    /// Works on the backlog, which the program owns at this moment.
    fn backlog<R>(&self, work: impl FnOnce(&mut Backlog) -> R) -> R;
}

/// The words of a flow as user space accesses them.
pub trait UserWords {
    /// Reads `state`. Acquires.
    fn state(&self) -> u64;

    /// Replaces `current` by `new` in `state`. Releases. False if the value was not `current`.
    fn exchange(&self, current: u64, new: u64) -> bool;

    /// Bytes redirected in all. Includes everything counted before the `state` that was acquired.
    fn redirected(&self) -> u64;

    /// Works on the backlog, which user space owns at this moment.
    fn backlog(&self, work: impl FnOnce(&mut Backlog));
}

/// What happens to a packet with payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketAction {
    /// The packet is left to user space.
    Pass,
    /// The packet is queued on the target.
    Redirect,
    /// The packet is queued on the target and is the last one: user space was notified that the
    /// flow is its own.
    RedirectAndHandBack,
}

/// The program's half: decides on a packet of `len` bytes that has arrived. Called for one packet
/// of a flow at a time.
///
/// - `other` is the flow in the other direction.
/// - `notify` notifies user space that this flow has changed hands. False if it cannot.
/// - `target` returns the bytes that the target has written in all and the memory of its send
///   queue.
/// - `is_clear` says whether the source has written everything that was redirected to it.
#[inline(always)]
pub fn on_packet<W: ProgramWords>(
    flow: &W,
    other: Option<&W>,
    len: u32,
    limit: u32,
    notify: impl Fn() -> bool,
    target: impl FnOnce() -> Option<(u64, u32)>,
    is_clear: impl FnOnce() -> bool,
) -> PacketAction {
    if pass(flow, len) || follow(flow, other, len, &notify, is_clear) {
        PacketAction::Pass
    } else if redirect(flow, len, limit, &notify, target) {
        PacketAction::RedirectAndHandBack
    } else {
        PacketAction::Redirect
    }
}

/// Counts the packet as passed if the flow is in USER. False if the flow is in KERNEL.
#[inline(always)]
fn pass(flow: &impl ProgramWords, len: u32) -> bool {
    // A bare load would not acquire the backlog that user space has written.
    let seen = flow.exchange(KERNEL, KERNEL);
    if seen == KERNEL {
        return false;
    }
    if flow.exchange(seen, seen + u64::from(len)) == seen {
        return true;
    }
    // In USER only the program adds to the word, and user space only takes the word to KERNEL. User
    // space has just done so, and the exchange that failed has not acquired that.
    flow.exchange(KERNEL, KERNEL);
    false
}

/// Hands a flow over with its packet passed if user space has the other direction. False if the
/// flow stays in the kernel. The flow stays until the source has written what was redirected to it,
/// which is soon: a passed packet queues behind those bytes, and is lost with them if the source is
/// reset.
#[inline(always)]
fn follow<W: ProgramWords>(
    flow: &W,
    other: Option<&W>,
    len: u32,
    notify: &impl Fn() -> bool,
    is_clear: impl FnOnce() -> bool,
) -> bool {
    let Some(other) = other else {
        return false;
    };
    let passed = USER + u64::from(len);
    if other.load_relaxed() & USER == 0 || !is_clear() || flow.exchange(KERNEL, passed) != KERNEL {
        return false;
    }
    // If user space cannot be notified, the packet is redirected like those before it. No packet
    // can have been passed since: only this program does so, one packet at a time.
    notify() || flow.exchange(passed, KERNEL) != passed
}

/// Accounts for a packet that is about to be redirected. True if this hands the flow over because
/// too much is outstanding.
#[inline(always)]
fn redirect(
    flow: &impl ProgramWords,
    len: u32,
    limit: u32,
    notify: &impl Fn() -> bool,
    target: impl FnOnce() -> Option<(u64, u32)>,
) -> bool {
    let sum = flow.add_redirected(len);
    let is_over = flow.backlog(|backlog| {
        backlog.charge(len)
            && target()
                .is_some_and(|(written, queued)| backlog.is_over_limit(written, queued, sum, limit))
    });
    if !is_over || flow.exchange(KERNEL, USER) != KERNEL {
        return false;
    }
    // If user space cannot be notified, the kernel keeps the flow. No packet can have been passed
    // since, as above. If the exchange fails, user space has taken the flow back by itself.
    notify() || flow.exchange(USER, KERNEL) != USER
}

/// Which of the bytes that the target has written came from the kernel, and which from user space.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Bytes that the target had written when nothing had been redirected, plus all bytes that user
    /// space has sent since everything was last in order.
    base: u64,
    /// Value of `redirected` up to which the target is known to have written everything.
    settled: u64,
    /// Bytes relayed since the flow last came to user space, to compare with those passed.
    relayed: u64,
}

/// User space's half of a flow.
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

    /// Whether user space has relayed every passed byte. True while the kernel has the flow.
    pub fn has_relayed_all(&self) -> bool {
        passed(self.words.state()).is_none_or(|passed| passed == self.account.get().relayed)
    }

    /// The number of redirected bytes if the target may not have written them all. Called with a
    /// passed byte in hand, the number includes all bytes that were redirected before that byte.
    pub fn unsettled(&self) -> Option<u64> {
        let redirected = self.words.redirected();
        (redirected != self.account.get().settled).then_some(redirected)
    }

    /// Whether the target has written all `redirected` bytes. `redirected` is the result of
    /// [`unsettled`](Self::unsettled), and `written` is the total of the target, read after that.
    pub fn settle(&self, redirected: u64, written: u64) -> bool {
        let account = self.account.get();
        let is_settled = written.wrapping_sub(account.base) >= redirected;
        if is_settled {
            self.account.set(Account { settled: redirected, ..account });
        }
        is_settled
    }

    /// Counts passed bytes that user space has sent, with everything before them settled.
    pub fn relayed(&self, bytes: u64) {
        let Account { base, settled, relayed } = self.account.get();
        self.account.set(Account { base: base + bytes, settled, relayed: relayed + bytes });
    }

    /// Declares that no packet will come any more. The other direction then need not wait for this
    /// one to go back to the kernel.
    pub fn retire(&self) -> bool {
        self.words.exchange(USER | self.account.get().relayed, KERNEL)
    }

    /// Whether every passed byte has been relayed and no redirected byte is pending.
    fn could_go(&self) -> bool {
        let account = self.account.get();
        passed(self.words.state()) == Some(account.relayed)
            && self.words.redirected() == account.settled
    }

    /// Prepares the account for the kernel. `written` is the total of the target.
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

/// Hands the flow from `side` to the kernel if every passed byte has been relayed and the target
/// has room. The flow in the other direction goes with it, because both must be together. Returns
/// which of the two have gone. `room` returns the total that the target of a flow has written, if
/// the target can take what the kernel may redirect.
///
/// # Errors
/// Those of `room`.
pub fn promote<W: UserWords, E>(
    ends: PerSide<&UserEnd<W>>,
    side: Side,
    room: impl Fn(Side) -> Result<Option<u64>, E>,
) -> Result<PerSide<bool>, E> {
    let (this, other) = (ends[side], ends[!side]);
    let mut gone = PerSide::default();
    // Read once: a flow that the program hands over during this call is not in order yet.
    let with_other = !other.is_in_kernel();
    if !this.could_go() || with_other && !other.could_go() {
        return Ok(gone);
    }
    for side in [side, !side].into_iter().take(1 + usize::from(with_other)) {
        match room(side)? {
            Some(written) => ends[side].open(written),
            None => return Ok(gone),
        }
    }
    gone[side] = this.go();
    gone[!side] = gone[side] && with_other && other.go();
    Ok(gone)
}
