//! When a connection that a reset has ended counts as ended in order.
//!
//! Pure. Invariant: this decides what is counted and logged, not what the peers see: the reset is
//! passed on either way.

use super::side::Side;

/// The most that a side may refuse of what the other side sent last, in bytes: a closing line such
/// as `221 Bye`, not the middle of a transfer.
const LAST_WORDS: u64 = 16 << 10;

/// What is known of a connection that one side has reset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// The side that reset it.
    pub(super) reset: Side,
    /// The client has sent its FIN before that.
    pub(super) client_ended: bool,
    /// The backend has sent its FIN.
    pub(super) backend_ended: bool,
    /// Bytes from the other side that the side that reset has not acknowledged.
    pub(super) refused: u64,
}

/// Whether the session was over by then.
///
/// - A client that has sent its FIN, or has the backend's, may leave with a reset. Its kernel sends
///   one where the client has closed and more arrives, or where it closes with unread bytes.
/// - The FIN of the backend ends the session for the backend only. Bytes that it refuses afterwards
///   are a loss, unless the client has sent its FIN as well and knows that nothing answers.
/// - A side that refuses more than a closing line has aborted a transfer.
pub(super) fn is_in_order(evidence: Evidence) -> bool {
    let Evidence { reset, client_ended, backend_ended, refused } = evidence;
    refused <= LAST_WORDS
        && match reset {
            Side::Client => client_ended || backend_ended,
            Side::Backend => client_ended && backend_ended,
        }
}

/// Whether it would have been if the side that has not reset had ended as well.
pub(super) fn depends_on_other_end(evidence: Evidence) -> bool {
    let other_ended = match evidence.reset {
        Side::Client => Evidence { backend_ended: true, ..evidence },
        Side::Backend => Evidence { client_ended: true, ..evidence },
    };
    !is_in_order(evidence) && is_in_order(other_ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_is_waited_for_only_where_it_matters() {
        let depends = |reset, client_ended, backend_ended, refused| {
            depends_on_other_end(Evidence { reset, client_ended, backend_ended, refused })
        };
        assert!(depends(Side::Client, false, false, 9));
        assert!(depends(Side::Backend, false, true, 9));
        assert!(!depends(Side::Client, true, false, 9));
        assert!(!depends(Side::Backend, true, false, 9));
        assert!(!depends(Side::Client, false, false, LAST_WORDS + 1));
    }

    fn is_fine(reset: Side, client_ended: bool, backend_ended: bool, refused: u64) -> bool {
        is_in_order(Evidence { reset, client_ended, backend_ended, refused })
    }

    #[test]
    fn a_client_that_has_ended_may_refuse_the_last_line() {
        assert!(is_fine(Side::Client, true, false, 9));
        assert!(is_fine(Side::Client, true, true, 9));
    }

    #[test]
    fn a_client_that_has_the_backends_end_may_close_with_unread_bytes() {
        assert!(is_fine(Side::Client, false, true, 9));
    }

    #[test]
    fn a_backend_may_refuse_a_last_line_only_if_both_have_ended() {
        assert!(is_fine(Side::Backend, true, true, 6));
        assert!(!is_fine(Side::Backend, false, true, 6));
        assert!(!is_fine(Side::Backend, true, false, 0));
    }

    #[test]
    fn a_reset_before_any_end_is_a_break() {
        assert!(!is_fine(Side::Client, false, false, 0));
        assert!(!is_fine(Side::Backend, false, false, 0));
    }

    #[test]
    fn a_transfer_that_is_broken_off_is_a_break() {
        for reset in [Side::Client, Side::Backend] {
            assert!(is_fine(reset, true, true, LAST_WORDS));
            assert!(!is_fine(reset, true, true, LAST_WORDS + 1));
        }
    }
}
