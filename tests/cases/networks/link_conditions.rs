//! Cables that lose, delay or duplicate frames, or have a smaller MTU on one side: every byte still
//! arrives.

use std::{net::Shutdown, time::Duration};

use tests::{
    Builder, Cable, Datapath, End, Family, Link, LinkConditions, Network, RunDir, Topology,
    WHOLE_CHUNKS, both_ways, end_of, exchange, note, on_all_datapaths,
};

fn cables_that_lose_one_frame_in_a_hundred(datapath: Datapath) {
    let cable = Cable::with(LinkConditions { lost: 1, ..LinkConditions::default() });
    handed_over(transfer(datapath, Family::V4, [cable; 2], 4 << 20));
}

fn cables_that_lose_one_frame_in_a_hundred_over_ipv6(datapath: Datapath) {
    let cable = Cable::with(LinkConditions { lost: 1, ..LinkConditions::default() });
    handed_over(transfer(datapath, Family::V6, [cable; 2], 4 << 20));
}

fn late_and_duplicated_frames(datapath: Datapath) {
    let cable = Cable::with(LinkConditions { late: 3, twice: 2, ..LinkConditions::default() });
    handed_over(transfer(datapath, Family::V4, [cable; 2], 4 << 20));
}

fn a_server_that_is_fifty_milliseconds_away(datapath: Datapath) {
    let far = LinkConditions { delay: Duration::from_millis(50), ..LinkConditions::default() };
    handed_over(transfer(datapath, Family::V4, [Cable::observed(), Cable::with(far)], 2 << 20));
}

fn all_conditions_at_once(datapath: Datapath) {
    let delay = Duration::from_millis(5);
    let conditions =
        LinkConditions { lost: 1, late: 3, twice: 2, delay, ..LinkConditions::default() };
    handed_over(transfer(datapath, Family::V6, [Cable::with(conditions); 2], 1 << 20));
}

fn shorter_packets_on_the_clients_side(datapath: Datapath) {
    short_packets(datapath, [1400, 1500]);
}

fn shorter_packets_on_the_servers_side(datapath: Datapath) {
    short_packets(datapath, [1500, 1400]);
}

/// A network whose MTU is smaller than the interfaces say, and that fragments longer packets
/// although they forbid it. Fragments cannot be forwarded as packets.
fn packets_that_come_in_fragments(datapath: Datapath) {
    let cable = Cable::with(LinkConditions { split: Some(1000), ..LinkConditions::default() });
    let Some(network) = Network::with(Topology::Apart, Family::V4, [cable; 2]) else { return };
    let dir = RunDir::new();
    let link = Link::across(network, dir.use_in(Builder::new(datapath).offload_after(4)));
    let (mut client, mut server) = link.pair();
    // The first transfer is large enough that the program observes packets while it runs.
    for size in [16 << 20, 1 << 20] {
        both_ways(&client, &server, (size, size + 1), WHOLE_CHUNKS);
        // The program joins a connection most easily when few bytes are in flight.
        (0..Link::SETTLED).for_each(|_| exchange(&mut client, &mut server));
    }
    let faults = link.network().faults();
    assert!(faults.split > 0, "{faults:?}");
    if datapath == Datapath::Splice {
        let stats = dir.run_ok(link.balance.address(), "stats");
        let why = "1 (a peer sends fragments or packets with unknown headers)";
        assert!(stats.contains(why), "{stats}");
    }
    drop((client, server));
    let session = link.balance.sessions(1).remove(0);
    assert_eq!(session.end, "clean");
    assert_ne!(session.datapath, "splice");
}

on_all_datapaths!(
    packets_that_come_in_fragments,
    cables_that_lose_one_frame_in_a_hundred,
    cables_that_lose_one_frame_in_a_hundred_over_ipv6,
    late_and_duplicated_frames,
    a_server_that_is_fifty_milliseconds_away,
    all_conditions_at_once,
    shorter_packets_on_the_clients_side,
    shorter_packets_on_the_servers_side,
);

/// Moves `size` bytes both ways at once and ends one direction after the other, on a connection
/// across these cables. Asserts that every condition has affected a frame.
fn transfer(datapath: Datapath, family: Family, cables: [Cable; 2], size: u64) -> Option<Link> {
    let network = Network::with(Topology::Apart, family, cables)?;
    let link = Link::across(network, Builder::new(datapath));
    // Enough exchanges that splicing has begun, so that the conditions affect it.
    let (client, server) = link.pair_after(30);
    both_ways(&client, &server, (size, size + 1), WHOLE_CHUNKS);
    for (from, to) in [(&client, &server), (&server, &client)] {
        from.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut to.try_clone().expect("dup")), End::Clean);
    }
    let faults = link.network().faults();
    note(&format!("{faults:?}"));
    for LinkConditions { lost, late, twice, .. } in
        cables.into_iter().filter_map(|cable| cable.conditions)
    {
        for (share, count) in [(lost, faults.lost), (late, faults.late), (twice, faults.twice)] {
            assert!(share == 0 || count > 0, "{share} of a hundred: {faults:?}");
        }
    }
    Some(link)
}

fn handed_over(link: Option<Link>) {
    if let Some(link) = link {
        link.balance.assert_all_handed_over(1);
    }
}

/// Connections whose two sides have different MTUs, with the kernel's offloads and without.
fn short_packets(datapath: Datapath, mtus: [usize; 2]) {
    for cable in [Cable::PLAIN, Cable::observed()] {
        for family in [Family::V4, Family::V6] {
            let cables = mtus.map(|mtu| cable.mtu(mtu));
            let Some(link) = transfer(datapath, family, cables, 4 << 20) else { return };
            link.balance.assert_all_handed_over(1);
        }
    }
}
