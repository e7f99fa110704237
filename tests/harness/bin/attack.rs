//! Attacks spliced connections; `cargo xtask attack` builds the program and runs this harness.
//!
//! Invariant: every attack prints one line, and harm by any of them makes the exit status a
//! failure.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the terminal is the user interface: results on stdout, progress on stderr"
)]

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tests::{
    Datapath, Family,
    attack::{Attack, AttackKind, KnownPair, Load, Placement, SceneConfig, compare},
    kernel_works,
};

/// Attacks a connection with packets of a host that knows addresses and ports, and sees no packet.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask attack", bin_name = "cargo xtask attack", max_term_width = 100)]
struct Options {
    /// Packets of each attack
    #[arg(long, value_name = "N", default_value = "10000000")]
    packets: u64,

    /// Kinds of attack [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    kind: Vec<AttackKind>,

    /// Address pairs that the attacker knows: client, server, both [default: each]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    known: Vec<String>,

    /// Placement of the hosts: loopback, switch (all behind one interface), apart [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    place: Vec<Placement>,

    /// IP versions: 4, 6 [default: both]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    family: Vec<u8>,

    /// Let the peers use no timestamps
    #[arg(long)]
    without_timestamps: bool,

    /// Let the client end its direction before the attack
    #[arg(long)]
    half_closed: bool,

    /// Datapath: relay, sockmap, splice
    #[arg(long, value_name = "NAME", default_value = "splice")]
    datapath: String,

    /// Instead measure throughput under 2,000 blind acknowledgements a second, on splice and on
    /// relay, in this many rounds of one second
    #[arg(long, value_name = "N")]
    throughput: Option<usize>,

    /// Seed of all guesses [default: a random one]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !kernel_works() {
        return ExitCode::FAILURE;
    }
    let datapath = match options.datapath.as_str() {
        "relay" => Datapath::Relay,
        "sockmap" => Datapath::Sockmap,
        _ => Datapath::Splice,
    };
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 40));
    let kinds = or_all(&options.kind, &AttackKind::ALL.map(|(_, kind)| kind));
    let places = or_all(&options.place, &Placement::ALL.map(|(_, place)| place));
    let known = |known: &&KnownPair| {
        options.known.is_empty() || options.known.iter().any(|name| *name == known.to_string())
    };
    let families = [(4, Family::V4), (6, Family::V6)];
    let family =
        |(number, _): &&(u8, Family)| options.family.is_empty() || options.family.contains(number);
    println!("seed {seed}");
    if let Some(rounds) = options.throughput {
        for &place in &places {
            for (_, family) in families.iter().filter(family) {
                for known in KnownPair::ALL.iter().filter(known) {
                    let config = SceneConfig::new(place, *family, datapath);
                    measure(SceneConfig { is_wide: true, ..config }, *known, rounds);
                }
            }
        }
        return ExitCode::SUCCESS;
    }
    let mut report = 0;
    for kind in kinds {
        for &place in &places {
            for (_, family) in families.iter().filter(family) {
                for known in KnownPair::ALL.iter().filter(known) {
                    let config = SceneConfig {
                        stamps: !options.without_timestamps,
                        ..SceneConfig::new(place, *family, datapath)
                    };
                    let packets = options.packets;
                    let is_half_closed = options.half_closed;
                    let attack =
                        Attack { kind, known: *known, config, is_half_closed, packets, seed };
                    let name = format!("{kind:<9} {known:<7} {config}");
                    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {eta}");
                    let bar = ProgressBar::new(packets)
                        .with_style(style.expect("a template"))
                        .with_message(name.clone());
                    let outcome = attack.run(&|sent| bar.set_position(sent));
                    bar.finish_and_clear();
                    let Some(outcome) = outcome else { continue };
                    report += usize::from(outcome.wrong.is_some());
                    println!("{name:<45} {outcome}");
                }
            }
        }
    }
    if report > 0 {
        eprintln!("{report} attacks did harm");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Blind acknowledgements a second.
const RATE: u32 = 2000;

fn measure(config: SceneConfig, known: KnownPair, rounds: usize) {
    for load in [Load::Bulk, Load::Requests(1), Load::Requests(64)] {
        let time = Duration::from_secs(1);
        if let Some(figures) = compare(config, load, known, RATE, rounds, time) {
            println!("{config} {known:<7} {figures}");
        }
    }
}

fn or_all<T: Copy>(asked: &[T], all: &[T]) -> Vec<T> {
    if asked.is_empty() { all.into() } else { asked.into() }
}
