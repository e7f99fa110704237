//! Attacks on spliced connections by a host that knows addresses and ports, and sees no packet: short forms
//! of what `cargo xtask attack` does with as many packets as one likes.

use std::time::Duration;

use tests::{
    Datapath, Family, Peer,
    attack::{
        Attack, Harm, Kind, Known, Load, Place, Setting, before_the_first_word, compare,
        while_idle, while_joined, while_vanished,
    },
    kernel_works, note,
};

const fn spliced(place: Place, family: Family) -> Setting {
    Setting::new(place, family, Datapath::Splice)
}

const HERE: Setting = spliced(Place::Loopback, Family::V4);
const HERE_V6: Setting = spliced(Place::Loopback, Family::V6);
const SWITCH: Setting = spliced(Place::Switch, Family::V4);
const SWITCH_V6: Setting = spliced(Place::Switch, Family::V6);
const APART: Setting = spliced(Place::Apart, Family::V4);

const fn without_timestamps(setting: Setting) -> Setting {
    Setting { stamps: false, ..setting }
}

/// Attacks with these numbers of packets, and asserts that they do no harm.
fn attack(kind: Kind, attacks: &[(Known, Setting, u64)]) {
    attack_when(false, kind, attacks);
}

fn attack_when(is_half_closed: bool, kind: Kind, attacks: &[(Known, Setting, u64)]) {
    if !kernel_works() {
        return;
    }
    for &(known, setting, packets) in attacks {
        let attack = Attack { kind, known, setting, is_half_closed, packets, seed: 3 };
        let Some(outcome) = attack.run(&|_| {}) else { return };
        note(&format!("{kind} {known} {setting}: {outcome}"));
        assert_eq!(outcome.wrong, None, "{kind} {known} {setting}, {} packets", outcome.sent);
    }
}

/// Asserts that none of the connections was harmed, and that most were spliced.
fn assert_unharmed(harm: Option<Harm>) {
    let Some(harm) = harm else { return };
    note(&format!("{harm:?}"));
    assert!(harm.wrong.is_empty(), "{harm:#?}");
    assert!(harm.carried > harm.connections / 2, "{harm:?}");
}

#[test]
fn resets_behind_data_break_nothing() {
    // Once through all numbers.
    const ALL: u64 = 150_000;

    let here = without_timestamps(HERE);
    attack(Kind::Reset, &[(Known::Client, here, ALL), (Known::Server, SWITCH_V6, ALL)]);
}

#[test]
fn resets_break_nothing_where_both_pairs_are_known() {
    let settings = [HERE, HERE_V6, SWITCH, APART, without_timestamps(SWITCH_V6)];
    attack(Kind::Reset, &settings.map(|setting| (Known::Both, setting, 10_000)));
}

#[test]
fn ends_neither_end_nor_count_anything() {
    attack(
        Kind::Fin,
        &[
            (Known::Client, HERE, 20_000),
            (Known::Server, SWITCH, 20_000),
            (Known::Both, HERE_V6, 20_000),
            (Known::Both, without_timestamps(APART), 20_000),
        ],
    );
}

#[test]
fn a_direction_goes_on_when_the_other_has_ended() {
    for kind in [Kind::Mixed, Kind::Checksum] {
        attack_when(true, kind, &[(Known::Both, HERE, 10_000), (Known::Both, SWITCH_V6, 10_000)]);
    }
}

#[test]
fn resets_alone_break_nothing() {
    attack(Kind::Rst, &[(Known::Both, HERE, 30_000), (Known::Both, SWITCH_V6, 30_000)]);
}

#[test]
fn beginnings_break_nothing() {
    attack(Kind::Syn, &[(Known::Both, HERE_V6, 30_000), (Known::Both, SWITCH, 30_000)]);
}

#[test]
fn acknowledgements_hold_nothing_up() {
    attack(
        Kind::Ack,
        &[
            (Known::Client, HERE, 20_000),
            (Known::Server, HERE_V6, 20_000),
            (Known::Both, SWITCH, 20_000),
            (Known::Both, without_timestamps(APART), 20_000),
        ],
    );
}

/// In pairs of rounds, so that whatever else the machine does befalls both.
#[test]
fn a_transfer_is_no_slower_than_on_the_relay_under_acknowledgements() {
    if !kernel_works() {
        return;
    }
    let (setting, time) = (Setting { is_wide: true, ..HERE }, Duration::from_millis(400));
    let Some(figures) = compare(setting, Load::Bulk, Known::Both, 2000, 3, time) else { return };
    note(&figures.to_string());
    let [_, attacked] = figures.ratios();
    assert!(attacked > 0.9, "{figures}");
}

#[test]
fn nothing_follows_from_a_packet_with_a_wrong_checksum() {
    let settings = [HERE, HERE_V6, SWITCH, APART, without_timestamps(SWITCH_V6)];
    attack(Kind::Checksum, &settings.map(|setting| (Known::Both, setting, 2000)));
}

#[test]
fn packets_that_are_no_whole_segments_change_nothing() {
    attack(
        Kind::Odd,
        &[
            (Known::Both, HERE, 30_000),
            (Known::Both, HERE_V6, 30_000),
            (Known::Both, SWITCH, 30_000),
            (Known::Both, SWITCH_V6, 30_000),
        ],
    );
}

#[test]
fn nothing_breaks_while_a_pair_is_joined() {
    if !kernel_works() {
        return;
    }
    for (setting, turns) in
        [(HERE, Some(0)), (SWITCH_V6, None), (without_timestamps(APART), Some(0))]
    {
        let setting = Setting { offload_after: turns, ..setting };
        assert_unharmed(while_joined(setting, Kind::Mixed, 40));
    }
}

#[test]
fn fragments_break_nothing_while_a_pair_is_joined() {
    if kernel_works()
        && let Some(harm) = while_joined(HERE, Kind::Odd, 20)
    {
        assert!(harm.wrong.is_empty(), "{harm:#?}");
    }
}

#[test]
fn the_first_word_after_a_banner_arrives() {
    if !kernel_works() {
        return;
    }
    for (setting, packets, first) in
        [(HERE, 6, Peer::Server), (HERE_V6, 1, Peer::Server), (SWITCH, 6, Peer::Client)]
    {
        assert_unharmed(before_the_first_word(setting, 16, packets, first));
    }
}

#[test]
fn an_idle_connection_ends_in_time() {
    if !kernel_works() {
        return;
    }
    for (setting, kind) in [(HERE, Kind::Ack), (SWITCH_V6, Kind::Mixed)] {
        let setting = Setting { idle: Some(1), ..setting };
        let Some(outcome) = while_idle(setting, kind, Known::Both) else { return };
        assert_eq!(outcome, Ok(()), "{setting}");
    }
}

#[test]
fn a_vanished_peer_is_found() {
    if kernel_works()
        && let Some(outcome) = while_vanished(SWITCH, Kind::Ack)
    {
        assert_eq!(outcome, Ok(()));
    }
}
