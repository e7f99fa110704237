//! A retransmission with repeated and new bytes is delivered once. A socket skips the repeated
//! bytes; a packet that the kernel forwards still contains them.

use std::io::{Read as _, Write as _};

use tests::{Datapath, End, Link, end_of, flag, note, on_all_datapaths, send_segment, skip};

fn repeated_bytes_are_delivered_once(datapath: Datapath) {
    let link = Link::new(datapath);
    for (repeated, fresh) in
        [(1, 1), (1000, 500), (4095, 1), (4096, 30), (20_000, 10_000), (60_000, 5_000)]
    {
        let (mut client, mut server) = link.settled_pair();
        let data: Vec<u8> = (0..repeated + fresh + 100).map(|i| (i * 7 + i / 256) as u8).collect();
        let mut got = vec![0; data.len()];

        client.write_all(&data[..repeated]).expect("the first bytes");
        server.read_exact(&mut got[..repeated]).expect("the first bytes");
        // The segment has bytes that were sent before and bytes that the client sends next.
        if let Err(e) = send_segment(&client, repeated as u32, &data[..repeated + fresh], flag::ACK)
        {
            return skip(&format!("cannot put a segment on the wire: {e}"));
        }
        server
            .read_exact(&mut got[repeated..][..fresh])
            .expect("the new bytes of the forged segment");
        client.write_all(&data[repeated..]).expect("the same bytes from their real sender");
        server.read_exact(&mut got[repeated + fresh..]).expect("the bytes after the segment");

        assert!(got == data, "{repeated} repeated and {fresh} fresh bytes were changed");
        drop(client);
        assert!(matches!(end_of(&mut server), End::Clean), "more bytes arrived than were sent");
    }
    link.balance.assert_all_on_its_datapath(6);
}

fn a_retransmission_with_a_new_fin_ends_one_direction(datapath: Datapath) {
    if datapath == Datapath::Splice {
        return note(
            "the client would get an acknowledgement of a FIN that it has not sent, as on a direct connection",
        );
    }
    let link = Link::new(datapath);
    let (mut client, mut server) = link.settled_pair();
    let data = [b'z'; 1000];
    client.write_all(&data).expect("the data");
    server.read_exact(&mut [0; 1000]).expect("the data");
    if let Err(e) = send_segment(&client, 1000, &data, flag::ACK | flag::FIN) {
        return skip(&format!("cannot put a segment on the wire: {e}"));
    }
    assert!(matches!(end_of(&mut server), End::Clean), "the client's end");
    // The client's socket has sent no FIN, so its reaction does not matter.
    server.write_all(b"a late answer").expect("the direction back is open");
    drop(server);
    let session = link.balance.sessions(1).remove(0);
    assert_eq!((session.end.as_str(), session.rcvd), ("clean", Link::SETTLED + 13), "{session:?}");
}

on_all_datapaths!(
    repeated_bytes_are_delivered_once,
    a_retransmission_with_a_new_fin_ends_one_direction,
);
