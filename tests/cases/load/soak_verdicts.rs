//! What the verdict catches, and what it lets pass.

use proptest::prelude::*;
use tests::soak::{Ear, End, Ending, Fault, Plan, Reception, Record, Voice, judge};

/// A life in which both sides say something and end, and the two records of it.
fn fine() -> (Plan, Record, Record) {
    let is_long = |plan: &Plan| plan.client.bytes() > 100 && plan.backend.bytes() > 100;
    let plans = (0..).map(|number| Plan::new(1, number));
    let plan = plans
        .filter(|plan| plan.reception == Reception::Served && plan.is_faultless())
        .find(is_long)
        .expect("endless plans");
    let (up, down) = (plan.client.bytes(), plan.backend.bytes());
    let record = |said, heard| Record {
        said,
        finished: true,
        heard,
        end: Some(End::Clean),
        ..Record::default()
    };
    (plan.clone(), record(up, down), record(down, up))
}

fn faults(client: &Record, backend: &Record) -> Vec<Fault> {
    judge(&fine().0, client, std::slice::from_ref(backend))
}

#[test]
fn a_life_without_a_fault_is_fine() {
    let (_, client, backend) = fine();
    assert_eq!(faults(&client, &backend), []);
}

#[test]
fn a_clean_end_before_the_last_byte_is_a_fault() {
    let (_, client, backend) = fine();
    let short = Record { heard: backend.heard - 1, ..backend };
    let truncated = Fault::Truncated { reader: "backend", missing: 1 };
    assert_eq!(faults(&client, &short), [truncated]);
}

#[test]
fn a_reset_must_not_become_a_clean_end() {
    let (_, client, backend) = fine();
    for heard in [0, backend.heard] {
        let left = Some(Ending::Reset);
        let client = Record { finished: false, left, end: None, ..client.clone() };
        let backend = Record { heard, ..backend.clone() };
        let false_end = Fault::FalseEnd { reader: "backend" };
        assert!(faults(&client, &backend).contains(&false_end), "{heard} bytes heard");
        let told = Record { end: Some(End::Reset), ..backend };
        assert_eq!(faults(&client, &told), []);
    }
}

#[test]
fn a_reset_after_a_clean_end_takes_nothing_back() {
    let (_, client, backend) = fine();
    let client = Record { left: Some(Ending::Reset), end: None, heard: 0, ..client };
    assert_eq!(faults(&client, &backend), []);
}

#[test]
fn a_program_that_dies_may_end_cleanly_if_everything_arrives() {
    let (_, client, backend) = fine();
    let client = Record { finished: false, left: Some(Ending::Close), end: None, ..client };
    assert_eq!(faults(&client, &backend), []);
    let short = Record { heard: backend.heard - 1, ..backend };
    let truncated = Fault::Truncated { reader: "backend", missing: 1 };
    assert_eq!(faults(&client, &short), [truncated]);
}

#[test]
fn a_break_that_nobody_made_is_a_fault() {
    let (_, client, backend) = fine();
    let broken = Record { end: Some(End::Reset), ..client };
    let fault = Fault::Broken { reader: "client", end: Some(End::Reset) };
    assert_eq!(faults(&broken, &backend), [fault]);
}

#[test]
fn who_hangs_is_named() {
    let (_, client, backend) = fine();
    let stuck = Record { stuck: Some("here".into()), finished: false, end: None, ..client };
    let hangs = Fault::Hangs { side: "client", place: "here".into() };
    assert!(faults(&stuck, &backend).contains(&hangs));
}

#[test]
fn a_client_that_stays_has_to_be_served() {
    let (plan, client, backend) = fine();
    let client = Record { heard: 0, ..client };
    assert_eq!(judge(&plan, &client, &[]), [Fault::NotServed]);
    let gone = Record { left: Some(Ending::Reset), end: None, ..client };
    assert_eq!(judge(&plan, &gone, &[]), []);
    let twice = [backend.clone(), backend];
    assert!(judge(&plan, &fine().1, &twice).contains(&Fault::ServedTwice));
}

#[test]
fn a_backend_that_dies_in_its_queue_does_not_end_cleanly() {
    let (plan, client, _) = fine();
    let plan = Plan { reception: Reception::DiesInQueue, ..plan };
    let client = Record { heard: 0, ..client };
    assert_eq!(judge(&plan, &client, &[]), [Fault::FalseEnd { reader: "client" }]);
    let told = Record { end: Some(End::Reset), ..client };
    assert_eq!(judge(&plan, &told, &[]), []);
}

proptest! {
    /// However it is read and written.
    #[test]
    fn what_was_said_is_heard(
        voice: u64,
        start in 0u64..1 << 40,
        cuts in prop::collection::vec(0usize..2000, 1..20),
    ) {
        let len = cuts.iter().sum();
        let mut whole = vec![0; len];
        Voice(voice).say(start, &mut whole);
        let mut parts = Vec::new();
        for cut in &cuts {
            let mut part = vec![0; *cut];
            Voice(voice).say(start + parts.len() as u64, &mut part);
            parts.extend(part);
        }
        prop_assert_eq!(&parts, &whole);
    }

    #[test]
    fn bytes_that_are_missing_come_twice_or_change_places_are_noticed(
        voice: u64,
        at in 0usize..5000,
        len in 1usize..3000,
        kind in 0u8..4,
    ) {
        let mut said = vec![0; 12_000];
        Voice(voice).say(0, &mut said);
        let mut heard = said.clone();
        match kind {
            0 => drop(heard.drain(at..at + len)),
            1 => drop(heard.splice(at..at, said[at..at + len].to_vec())),
            2 => heard[at..at + 2 * len].rotate_left(len),
            _ => heard[at] ^= 1,
        }
        prop_assume!(heard[..at + 1] != said[..at + 1] || heard[at..] != said[at..]);
        let mut ear = Ear::new(Voice(voice));
        heard.chunks(777).for_each(|part| ear.take(part));
        let differs = heard.iter().zip(&said).position(|(heard, said)| heard != said);
        prop_assert_eq!(ear.wrong_at(), differs.map(|at| at as u64));
        prop_assert!(differs.is_some_and(|differs| differs >= at));
        prop_assert_eq!(ear.heard(), heard.len() as u64);
    }

    #[test]
    fn voices_of_other_connections_are_other_bytes(voice: u64, other: u64, start in 0u64..1 << 20) {
        prop_assume!(voice != other);
        let mut said = [0; 64];
        Voice(other).say(start, &mut said);
        let mut ear = Ear::new(Voice(voice));
        ear.take(&said);
        prop_assert!(ear.wrong_at().is_some());
    }
}
