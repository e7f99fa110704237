//! What the judge of soak scenarios rejects, and what it accepts.

use proptest::prelude::*;
use tests::soak::{
    Ending, PayloadChecker, PayloadGenerator, Plan, Reception, Record, StreamEnd, Violation,
    find_violations,
};

/// A scenario in which both sides send and end cleanly, with the records of both sides.
fn correct() -> (Plan, Record, Record) {
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

fn violations(client: &Record, backend: &Record) -> Vec<Violation> {
    find_violations(&correct().0, client, std::slice::from_ref(backend))
}

#[test]
fn a_correct_scenario_has_no_violations() {
    let (_, client, backend) = correct();
    assert_eq!(violations(&client, &backend), []);
}

#[test]
fn a_clean_end_before_the_last_byte_is_a_violation() {
    let (_, client, backend) = correct();
    let short = Record { received: backend.received - 1, ..backend };
    let truncated = Violation::Truncated { reader: "backend", missing: 1 };
    assert_eq!(violations(&client, &short), [truncated]);
}

#[test]
fn a_reset_must_not_become_a_clean_end() {
    let (_, client, backend) = correct();
    for received in [0, backend.received] {
        let left = Some(Ending::Reset);
        let client = Record { finished: false, left, end: None, ..client.clone() };
        let backend = Record { received, ..backend.clone() };
        let false_end = Violation::FalseEnd { reader: "backend" };
        assert!(violations(&client, &backend).contains(&false_end), "{received} bytes received");
        let reset = Record { end: Some(StreamEnd::Reset), ..backend };
        assert_eq!(violations(&client, &reset), []);
    }
}

#[test]
fn a_reset_after_a_clean_end_is_no_violation() {
    let (_, client, backend) = correct();
    let client = Record { left: Some(Ending::Reset), end: None, received: 0, ..client };
    assert_eq!(violations(&client, &backend), []);
}

#[test]
fn a_process_that_dies_may_end_cleanly_if_all_bytes_arrive() {
    let (_, client, backend) = correct();
    let client = Record { finished: false, left: Some(Ending::Close), end: None, ..client };
    assert_eq!(violations(&client, &backend), []);
    let short = Record { received: backend.received - 1, ..backend };
    let truncated = Violation::Truncated { reader: "backend", missing: 1 };
    assert_eq!(violations(&client, &short), [truncated]);
}

#[test]
fn a_break_by_neither_side_is_a_violation() {
    let (_, client, backend) = correct();
    let broken = Record { end: Some(StreamEnd::Reset), ..client };
    let violation = Violation::Broken { reader: "client", end: Some(StreamEnd::Reset) };
    assert_eq!(violations(&broken, &backend), [violation]);
}

#[test]
fn a_side_that_hangs_is_named() {
    let (_, client, backend) = correct();
    let stuck = Record { stuck: Some("here".into()), finished: false, end: None, ..client };
    let hangs = Violation::Hangs { side: "client", place: "here".into() };
    assert!(violations(&stuck, &backend).contains(&hangs));
}

#[test]
fn a_client_that_stays_must_be_served() {
    let (plan, client, backend) = correct();
    let client = Record { received: 0, ..client };
    assert_eq!(find_violations(&plan, &client, &[]), [Violation::NotServed]);
    let gone = Record { left: Some(Ending::Reset), end: None, ..client };
    assert_eq!(find_violations(&plan, &gone, &[]), []);
    let twice = [backend.clone(), backend];
    assert!(find_violations(&plan, &correct().1, &twice).contains(&Violation::ServedTwice));
}

#[test]
fn a_backend_that_dies_before_accept_does_not_end_cleanly() {
    let (plan, client, _) = correct();
    let plan = Plan { reception: Reception::DiesBeforeAccept, ..plan };
    let client = Record { received: 0, ..client };
    assert_eq!(find_violations(&plan, &client, &[]), [Violation::FalseEnd { reader: "client" }]);
    let reset = Record { end: Some(StreamEnd::Reset), ..client };
    assert_eq!(find_violations(&plan, &reset, &[]), []);
}

proptest! {
    /// However the stream is split.
    #[test]
    fn the_payload_does_not_depend_on_how_it_is_split(
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
    fn lost_duplicated_and_misplaced_bytes_are_detected(
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
    fn payloads_of_other_connections_differ(payload: u64, other: u64, start in 0u64..1 << 20) {
        prop_assume!(payload != other);
        let mut sent = [0; 64];
        PayloadGenerator(other).fill(start, &mut sent);
        let mut checker = PayloadChecker::new(PayloadGenerator(payload));
        checker.take(&sent);
        prop_assert!(checker.wrong_at().is_some());
    }
}
