//! Decides whether a connection that one side has reset counts as ended in order.
//!
//! Pure functions. Invariant: the decision changes what is counted and logged, and not what the
//! peers see: the reset is passed on in both cases.

use super::side::Side;

/// The most bytes of the other side that the side that reset may leave unacknowledged: enough for a
/// closing line such as `221 Bye`, and less than a transfer.
const MAX_REFUSED: u64 = 16 << 10;

/// The state of a connection when one side reset it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResetEvidence {
    /// The side that reset the connection.
    pub(super) reset: Side,
    /// The client had sent FIN.
    pub(super) client_ended: bool,
    /// The backend had sent FIN.
    pub(super) backend_ended: bool,
    /// Bytes from the other side that the side that reset has not acknowledged.
    pub(super) refused: u64,
}

impl ResetEvidence {
    /// Whether the session was over before the reset.
    ///
    /// - A client that has sent FIN, or has received the backend's FIN, may end with a reset. Its
    ///   kernel sends a reset if bytes arrive after the client has closed, or if the client closes
    ///   with unread bytes.
    /// - The backend's FIN ends the session only for the backend. Bytes that the backend refuses
    ///   afterwards are lost, unless the client has sent FIN as well and expects no answer.
    /// - A side that refuses more than a closing line has aborted a transfer.
    pub(super) fn is_in_order(self) -> bool {
        let Self { reset, client_ended, backend_ended, refused } = self;
        refused <= MAX_REFUSED
            && match reset {
                Side::Client => client_ended || backend_ended,
                Side::Backend => client_ended && backend_ended,
            }
    }

    /// Whether a FIN of the side that has not reset would change the decision.
    pub(super) fn depends_on_other_end(self) -> bool {
        let other_ended = match self.reset {
            Side::Client => Self { backend_ended: true, ..self },
            Side::Backend => Self { client_ended: true, ..self },
        };
        !self.is_in_order() && other_ended.is_in_order()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_decisive_fin_of_the_other_side_is_waited_for() {
        let depends = |reset, client_ended, backend_ended, refused| {
            ResetEvidence { reset, client_ended, backend_ended, refused }.depends_on_other_end()
        };
        assert!(depends(Side::Client, false, false, 9));
        assert!(depends(Side::Backend, false, true, 9));
        assert!(!depends(Side::Client, true, false, 9));
        assert!(!depends(Side::Backend, true, false, 9));
        assert!(!depends(Side::Client, false, false, MAX_REFUSED + 1));
    }

    fn is_fine(reset: Side, client_ended: bool, backend_ended: bool, refused: u64) -> bool {
        ResetEvidence { reset, client_ended, backend_ended, refused }.is_in_order()
    }

    #[test]
    fn a_client_that_has_sent_fin_may_refuse_a_closing_line() {
        assert!(is_fine(Side::Client, true, false, 9));
        assert!(is_fine(Side::Client, true, true, 9));
    }

    #[test]
    fn a_client_that_has_received_fin_may_close_with_unread_bytes() {
        assert!(is_fine(Side::Client, false, true, 9));
    }

    #[test]
    fn a_backend_may_refuse_a_closing_line_only_after_both_fins() {
        assert!(is_fine(Side::Backend, true, true, 6));
        assert!(!is_fine(Side::Backend, false, true, 6));
        assert!(!is_fine(Side::Backend, true, false, 0));
    }

    #[test]
    fn a_reset_before_any_fin_is_a_failure() {
        assert!(!is_fine(Side::Client, false, false, 0));
        assert!(!is_fine(Side::Backend, false, false, 0));
    }

    #[test]
    fn an_aborted_transfer_is_a_failure() {
        for reset in [Side::Client, Side::Backend] {
            assert!(is_fine(reset, true, true, MAX_REFUSED));
            assert!(!is_fine(reset, true, true, MAX_REFUSED + 1));
        }
    }
}
