//! What the verdict catches, and what it lets pass.

use proptest::prelude::*;
use tests::soak::{
    Ending, PayloadChecker, PayloadGenerator, Plan, Reception, Record, StreamEnd, Violation,
    find_violations,
};

/// A scenario in which both sides say something and end, and the two records of it.
fn fine() -> (Plan, Record, Record) {
    let is_long = |plan: &Plan| plan.client.bytes() > 100 && plan.backend.bytes() > 100;
    let plans = (0..).map(|number| Plan::new(1, number));
    let plan = plans
        .filter(|plan| plan.reception == Reception::Served && plan.is_faultless())
        .find(is_long)
        .expect("endless plans");
    let (up, down) = (plan.client.bytes(), plan.backend.bytes());
    let record = |sent, received| Record {
        sent,
        finished: true,
        received,
        end: Some(StreamEnd::Clean),
        ..Record::default()
    };
    (plan.clone(), record(up, down), record(down, up))
}

fn faults(client: &Record, backend: &Record) -> Vec<Violation> {
    find_violations(&fine().0, client, std::slice::from_ref(backend))
}

#[test]
fn a_life_without_a_fault_is_fine() {
    let (_, client, backend) = fine();
    assert_eq!(faults(&client, &backend), []);
}

#[test]
fn a_clean_end_before_the_last_byte_is_a_fault() {
    let (_, client, backend) = fine();
    let short = Record { received: backend.received - 1, ..backend };
    let truncated = Violation::Truncated { reader: "backend", missing: 1 };
    assert_eq!(faults(&client, &short), [truncated]);
}

#[test]
fn a_reset_must_not_become_a_clean_end() {
    let (_, client, backend) = fine();
    for received in [0, backend.received] {
        let left = Some(Ending::Reset);
        let client = Record { finished: false, left, end: None, ..client.clone() };
        let backend = Record { received, ..backend.clone() };
        let false_end = Violation::FalseEnd { reader: "backend" };
        assert!(faults(&client, &backend).contains(&false_end), "{received} bytes received");
        let told = Record { end: Some(StreamEnd::Reset), ..backend };
        assert_eq!(faults(&client, &told), []);
    }
}

#[test]
fn a_reset_after_a_clean_end_takes_nothing_back() {
    let (_, client, backend) = fine();
    let client = Record { left: Some(Ending::Reset), end: None, received: 0, ..client };
    assert_eq!(faults(&client, &backend), []);
}

#[test]
fn a_program_that_dies_may_end_cleanly_if_everything_arrives() {
    let (_, client, backend) = fine();
    let client = Record { finished: false, left: Some(Ending::Close), end: None, ..client };
    assert_eq!(faults(&client, &backend), []);
    let short = Record { received: backend.received - 1, ..backend };
    let truncated = Violation::Truncated { reader: "backend", missing: 1 };
    assert_eq!(faults(&client, &short), [truncated]);
}

#[test]
fn a_break_that_nobody_made_is_a_fault() {
    let (_, client, backend) = fine();
    let broken = Record { end: Some(StreamEnd::Reset), ..client };
    let fault = Violation::Broken { reader: "client", end: Some(StreamEnd::Reset) };
    assert_eq!(faults(&broken, &backend), [fault]);
}

#[test]
fn who_hangs_is_named() {
    let (_, client, backend) = fine();
    let stuck = Record { stuck: Some("here".into()), finished: false, end: None, ..client };
    let hangs = Violation::Hangs { side: "client", place: "here".into() };
    assert!(faults(&stuck, &backend).contains(&hangs));
}

#[test]
fn a_client_that_stays_has_to_be_served() {
    let (plan, client, backend) = fine();
    let client = Record { received: 0, ..client };
    assert_eq!(find_violations(&plan, &client, &[]), [Violation::NotServed]);
    let gone = Record { left: Some(Ending::Reset), end: None, ..client };
    assert_eq!(find_violations(&plan, &gone, &[]), []);
    let twice = [backend.clone(), backend];
    assert!(find_violations(&plan, &fine().1, &twice).contains(&Violation::ServedTwice));
}

#[test]
fn a_backend_that_dies_in_its_queue_does_not_end_cleanly() {
    let (plan, client, _) = fine();
    let plan = Plan { reception: Reception::DiesBeforeAccept, ..plan };
    let client = Record { received: 0, ..client };
    assert_eq!(find_violations(&plan, &client, &[]), [Violation::FalseEnd { reader: "client" }]);
    let told = Record { end: Some(StreamEnd::Reset), ..client };
    assert_eq!(find_violations(&plan, &told, &[]), []);
}

proptest! {
    /// However it is read and written.
    #[test]
    fn what_was_said_is_heard(
        payload: u64,
        start in 0u64..1 << 40,
        cuts in prop::collection::vec(0usize..2000, 1..20),
    ) {
        let len = cuts.iter().sum();
        let mut whole = vec![0; len];
        PayloadGenerator(payload).fill(start, &mut whole);
        let mut parts = Vec::new();
        for cut in &cuts {
            let mut part = vec![0; *cut];
            PayloadGenerator(payload).fill(start + parts.len() as u64, &mut part);
            parts.extend(part);
        }
        prop_assert_eq!(&parts, &whole);
    }

    #[test]
    fn bytes_that_are_missing_come_twice_or_change_places_are_noticed(
        payload: u64,
        at in 0usize..5000,
        len in 1usize..3000,
        kind in 0u8..4,
    ) {
        let mut sent = vec![0; 12_000];
        PayloadGenerator(payload).fill(0, &mut sent);
        let mut received = sent.clone();
        match kind {
            0 => drop(received.drain(at..at + len)),
            1 => drop(received.splice(at..at, sent[at..at + len].to_vec())),
            2 => received[at..at + 2 * len].rotate_left(len),
            _ => received[at] ^= 1,
        }
        prop_assume!(received[..at + 1] != sent[..at + 1] || received[at..] != sent[at..]);
        let mut checker = PayloadChecker::new(PayloadGenerator(payload));
        received.chunks(777).for_each(|part| checker.take(part));
        let differs = received.iter().zip(&sent).position(|(received, sent)| received != sent);
        prop_assert_eq!(checker.wrong_at(), differs.map(|at| at as u64));
        prop_assert!(differs.is_some_and(|differs| differs >= at));
        prop_assert_eq!(checker.received(), received.len() as u64);
    }

    #[test]
    fn voices_of_other_connections_are_other_bytes(payload: u64, other: u64, start in 0u64..1 << 20) {
        prop_assume!(payload != other);
        let mut sent = [0; 64];
        PayloadGenerator(other).fill(start, &mut sent);
        let mut checker = PayloadChecker::new(PayloadGenerator(payload));
        checker.take(&sent);
        prop_assert!(checker.wrong_at().is_some());
    }
}
