//! Attacks on spliced connections by a host that knows addresses and ports, and sees no packet.
//! `cargo xtask attack` runs the same attacks with any number of packets.

use std::time::Duration;

use tests::{
    Datapath, Family, Peer,
    attack::{
        Attack, AttackKind, HarmReport, KnownPair, Load, Placement, SceneConfig,
        before_the_first_byte, compare, during_join, while_idle, with_vanished_client,
    },
    kernel_works, note,
};

const fn spliced(place: Placement, family: Family) -> SceneConfig {
    SceneConfig::new(place, family, Datapath::Splice)
}

const HERE: SceneConfig = spliced(Placement::Loopback, Family::V4);
const HERE_V6: SceneConfig = spliced(Placement::Loopback, Family::V6);
const SWITCH: SceneConfig = spliced(Placement::Switch, Family::V4);
const SWITCH_V6: SceneConfig = spliced(Placement::Switch, Family::V6);
const APART: SceneConfig = spliced(Placement::Apart, Family::V4);

const fn without_timestamps(config: SceneConfig) -> SceneConfig {
    SceneConfig { stamps: false, ..config }
}

/// Attacks with these numbers of packets, and asserts that the attacks do no harm.
fn attack(kind: AttackKind, attacks: &[(KnownPair, SceneConfig, u64)]) {
    attack_when(false, kind, attacks);
}

fn attack_when(is_half_closed: bool, kind: AttackKind, attacks: &[(KnownPair, SceneConfig, u64)]) {
    if !kernel_works() {
        return;
    }
    for &(known, config, packets) in attacks {
        let attack = Attack { kind, known, config, is_half_closed, packets, seed: 3 };
        let Some(outcome) = attack.run(&|_| {}) else { return };
        note(&format!("{kind} {known} {config}: {outcome}"));
        assert_eq!(outcome.wrong, None, "{kind} {known} {config}, {} packets", outcome.sent);
    }
}

/// Asserts that no connection was harmed, and that most were spliced.
fn assert_unharmed(report: Option<HarmReport>) {
    let Some(report) = report else { return };
    note(&format!("{report:?}"));
    assert!(report.wrong.is_empty(), "{report:#?}");
    assert!(report.carried > report.connections / 2, "{report:?}");
}

#[test]
fn resets_after_data_break_nothing() {
    // Enough packets for one sweep through the sequence numbers.
    const ALL: u64 = 150_000;

    let here = without_timestamps(HERE);
    attack(
        AttackKind::Reset,
        &[(KnownPair::Client, here, ALL), (KnownPair::Server, SWITCH_V6, ALL)],
    );
}

#[test]
fn resets_break_nothing_where_both_pairs_are_known() {
    let configs = [HERE, HERE_V6, SWITCH, APART, without_timestamps(SWITCH_V6)];
    attack(AttackKind::Reset, &configs.map(|config| (KnownPair::Both, config, 10_000)));
}

#[test]
fn fins_neither_close_nor_count() {
    attack(
        AttackKind::Fin,
        &[
            (KnownPair::Client, HERE, 20_000),
            (KnownPair::Server, SWITCH, 20_000),
            (KnownPair::Both, HERE_V6, 20_000),
            (KnownPair::Both, without_timestamps(APART), 20_000),
        ],
    );
}

#[test]
fn a_direction_goes_on_when_the_other_has_ended() {
    for kind in [AttackKind::Mixed, AttackKind::Checksum] {
        attack_when(
            true,
            kind,
            &[(KnownPair::Both, HERE, 10_000), (KnownPair::Both, SWITCH_V6, 10_000)],
        );
    }
}

#[test]
fn resets_alone_break_nothing() {
    attack(
        AttackKind::Rst,
        &[(KnownPair::Both, HERE, 30_000), (KnownPair::Both, SWITCH_V6, 30_000)],
    );
}

#[test]
fn syns_break_nothing() {
    attack(
        AttackKind::Syn,
        &[(KnownPair::Both, HERE_V6, 30_000), (KnownPair::Both, SWITCH, 30_000)],
    );
}

#[test]
fn acknowledgements_stall_nothing() {
    attack(
        AttackKind::Ack,
        &[
            (KnownPair::Client, HERE, 20_000),
            (KnownPair::Server, HERE_V6, 20_000),
            (KnownPair::Both, SWITCH, 20_000),
            (KnownPair::Both, without_timestamps(APART), 20_000),
        ],
    );
}

/// Rounds alternate between the datapaths, so other load of the machine affects both.
#[test]
fn a_transfer_is_no_slower_than_on_the_relay_under_acknowledgements() {
    if !kernel_works() {
        return;
    }
    let (config, time) = (SceneConfig { is_wide: true, ..HERE }, Duration::from_millis(400));
    let Some(figures) = compare(config, Load::Bulk, KnownPair::Both, 2000, 3, time) else {
        return;
    };
    note(&figures.to_string());
    let [_, attacked] = figures.ratios();
    assert!(attacked > 0.9, "{figures}");
}

#[test]
fn a_wrong_checksum_has_no_effect() {
    let configs = [HERE, HERE_V6, SWITCH, APART, without_timestamps(SWITCH_V6)];
    attack(AttackKind::Checksum, &configs.map(|config| (KnownPair::Both, config, 2000)));
}

#[test]
fn fragments_and_malformed_packets_change_nothing() {
    attack(
        AttackKind::Malformed,
        &[
            (KnownPair::Both, HERE, 30_000),
            (KnownPair::Both, HERE_V6, 30_000),
            (KnownPair::Both, SWITCH, 30_000),
            (KnownPair::Both, SWITCH_V6, 30_000),
        ],
    );
}

#[test]
fn nothing_breaks_while_a_pair_is_joined() {
    if !kernel_works() {
        return;
    }
    for (config, buffers) in
        [(HERE, Some(0)), (SWITCH_V6, None), (without_timestamps(APART), Some(0))]
    {
        let config = SceneConfig { offload_after: buffers, ..config };
        assert_unharmed(during_join(config, AttackKind::Mixed, 40));
    }
}

#[test]
fn fragments_break_nothing_while_a_pair_is_joined() {
    if kernel_works()
        && let Some(report) = during_join(HERE, AttackKind::Malformed, 20)
    {
        assert!(report.wrong.is_empty(), "{report:#?}");
    }
}

#[test]
fn the_first_reply_after_a_banner_arrives() {
    if !kernel_works() {
        return;
    }
    for (config, packets, first) in
        [(HERE, 6, Peer::Server), (HERE_V6, 1, Peer::Server), (SWITCH, 6, Peer::Client)]
    {
        assert_unharmed(before_the_first_byte(config, 16, packets, first));
    }
}

#[test]
fn an_idle_connection_ends_in_time() {
    if !kernel_works() {
        return;
    }
    for (config, kind) in [(HERE, AttackKind::Ack), (SWITCH_V6, AttackKind::Mixed)] {
        let config = SceneConfig { idle: Some(1), ..config };
        let Some(outcome) = while_idle(config, kind, KnownPair::Both) else { return };
        assert_eq!(outcome, Ok(()), "{config}");
    }
}

#[test]
fn a_vanished_peer_is_detected() {
    if kernel_works()
        && let Some(outcome) = with_vanished_client(SWITCH, AttackKind::Ack)
    {
        assert_eq!(outcome, Ok(()));
    }
}
