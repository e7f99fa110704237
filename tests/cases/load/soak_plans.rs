//! Properties of soak plans.

use std::time::Duration;

use proptest::prelude::*;
use tests::soak::{Act, Ending, Plan, Reception, Script};

proptest! {
    #[test]
    fn a_plan_depends_only_on_seed_and_number(seed: u64, number in 0u64..1 << 40) {
        prop_assert_eq!(Plan::new(seed, number), Plan::new(seed, number));
        prop_assert_ne!(Plan::new(seed, number).client_payload(), Plan::new(seed, number).backend_payload());
    }

    #[test]
    fn a_plan_has_no_deadlock(seed: u64, number in 0u64..10_000) {
        let plan = Plan::new(seed, number);
        if plan.is_faultless() {
            prop_assert!(finishes([&plan.client, &plan.backend]), "{plan}");
        }
    }

    #[test]
    fn the_pauses_of_a_plan_are_short(seed: u64, number in 0u64..10_000) {
        let plan = Plan::new(seed, number);
        let silence = plan.client.silence() + plan.backend.silence();
        prop_assert!(silence < Duration::from_secs(12), "{silence:?}: {plan}");
    }

    #[test]
    fn a_side_that_stops_reading_for_good_breaks_off_or_is_reset(seed: u64, number in 0u64..10_000) {
        let Plan { client, backend, .. } = Plan::new(seed, number);
        for (one, other) in [(&client, &backend), (&backend, &client)] {
            let is_reset = other.breaks.is_some_and(|other| other.ending == Ending::Reset);
            prop_assert!(!one.stalls() || one.breaks.is_some() || is_reset);
        }
    }

    #[test]
    fn read_pauses_are_ordered_by_offset(seed: u64, number in 0u64..10_000) {
        let Plan { client, backend, .. } = Plan::new(seed, number);
        for Script { read_pauses, .. } in [client, backend] {
            prop_assert!(read_pauses.is_sorted_by_key(|pause| pause.after), "{read_pauses:?}");
        }
    }
}

#[test]
fn no_side_stops_reading_while_all_servers_are_down() {
    let plans = (0..20_000).map(|number| Plan::new(1, number));
    let down: Vec<_> = plans.filter(|plan| plan.reception == Reception::AllDown).collect();
    assert!(down.len() > 200, "{}", down.len());
    for plan in down {
        assert!(!plan.client.stalls() && !plan.backend.stalls(), "{plan}");
    }
}

#[test]
fn every_kind_of_plan_is_drawn() {
    let plans: Vec<_> = (0..2000).map(|number| Plan::new(1, number)).collect();
    let share = |is: fn(&Plan) -> bool| plans.iter().filter(|plan| is(plan)).count();
    for (least, count) in [
        (600, share(Plan::is_faultless)),
        (200, share(|plan| plan.client.breaks.is_some())),
        (200, share(|plan| plan.backend.breaks.is_some())),
        (50, share(|plan| plan.client.stalls() || plan.backend.stalls())),
        (50, share(|plan| plan.client.acts.contains(&Act::Urgent))),
        (200, share(|plan| plan.backend.acts.contains(&Act::AwaitEnd))),
        (50, share(|plan| plan.client.bytes() > 1 << 20)),
        (50, share(|plan| plan.client.bytes() == 0)),
    ] {
        assert!(count >= least, "{count} of {}, not {least}", plans.len());
    }
}

/// Whether both sides finish their scripts if no buffer is ever full.
fn finishes(scripts: [&Script; 2]) -> bool {
    let (mut at, mut sent) = ([0; 2], [0; 2]);
    loop {
        let before = at;
        for side in 0..2 {
            let acts = &scripts[side].acts;
            while let Some(act) = acts.get(at[side]) {
                match *act {
                    Act::Send { bytes, .. } => sent[side] += bytes,
                    Act::Urgent => sent[side] += 1,
                    Act::AwaitBytes(bytes) if sent[1 - side] < bytes => break,
                    Act::AwaitEnd if at[1 - side] < scripts[1 - side].acts.len() => break,
                    Act::AwaitBytes(_) | Act::AwaitEnd | Act::Pause(_) => {}
                }
                at[side] += 1;
            }
        }
        if at == before {
            return (0..2).all(|side| at[side] == scripts[side].acts.len());
        }
    }
}
