//! The datapath under test, and whether this kernel supports the kernel datapaths.
//!
//! Invariant: a kernel datapath is skipped only for a reason that is printed.

use std::{fs, path::Path};

use crate::skip;

/// A way to move the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// User space relays the bytes.
    Relay,
    /// The kernel forwards from the first byte (sockmap).
    Sockmap,
    /// User space relays the first buffers, then sockmap takes over.
    Handover,
    /// TCP splicing: the peers' packets are forwarded, once user space has moved a buffer.
    Splice,
}

impl Datapath {
    /// The name in `--datapath` and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Datapath::Relay => "relay",
            Datapath::Sockmap | Datapath::Handover => "sockmap",
            Datapath::Splice => "splice",
        }
    }

    /// The number of buffers that user space moves before the hand-over (`--offload-after`).
    pub(crate) fn offload_after(self) -> Option<u32> {
        match self {
            Datapath::Relay => None,
            Datapath::Sockmap => Some(0),
            Datapath::Handover => Some(3),
            Datapath::Splice => Some(1),
        }
    }

    /// Whether a connection of this datapath may end on the datapath that the log calls `name`.
    pub fn may_end_on(self, name: &str) -> bool {
        match self {
            Datapath::Relay | Datapath::Sockmap => name == self.name(),
            // A connection that ends early is not handed over.
            Datapath::Handover => name == "sockmap" || name == "relay",
            // A connection that cannot be spliced runs on another datapath.
            Datapath::Splice => ["splice", "sockmap", "relay"].contains(&name),
        }
    }
}

/// True where the kernel datapaths must work. Otherwise prints the reason and returns false; the
/// test returns then.
pub fn kernel_works() -> bool {
    match kernel_unavailable() {
        None => true,
        Some(reason) => {
            skip(&reason);
            false
        }
    }
}

/// Whether the kernel detaches the splice program when its process dies, even by SIGKILL (tcx
/// links, Linux 6.6).
pub fn has_tcx() -> bool {
    version(&release()) >= (6, 6)
}

/// The reason why the kernel datapaths cannot work in this process, if there is one.
pub fn kernel_unavailable() -> Option<String> {
    /// Bit numbers of linux/capability.h.
    const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

    /// The first kernel on which all kernel datapaths work.
    const NEEDED_VERSION: (u32, u32) = (5, 19);

    if !nix::unistd::Uid::effective().is_root() {
        return Some("a datapath in the kernel needs root".into());
    }
    let held = effective_capabilities();
    for (name, bit) in NEEDED {
        if held & (1 << bit) == 0 {
            return Some(format!("a datapath in the kernel needs {name}"));
        }
    }
    let release = release();
    if version(&release) < NEEDED_VERSION {
        let (major, minor) = NEEDED_VERSION;
        return Some(format!(
            "the datapaths in the kernel need Linux {major}.{minor}, this is {release}"
        ));
    }
    let btf = Path::new("/sys/kernel/btf/vmlinux");
    if !btf.exists() {
        return Some(format!("this kernel has no {}", btf.display()));
    }
    None
}

fn release() -> String {
    nix::sys::utsname::uname().expect("uname").release().to_string_lossy().into_owned()
}

/// Major and minor version of a kernel release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    u64::from_str_radix(line.expect("a CapEff line").trim(), 16).expect("a hexadecimal number")
}

/// Makes the tests `NAME::on_relay`, `NAME::on_sockmap` and `NAME::on_splice` of each function,
/// which takes a [`Datapath`](crate::Datapath).
#[macro_export]
macro_rules! on_each_datapath {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn on_relay() {
                super::$name($crate::Datapath::Relay);
            }

            #[test]
            fn on_sockmap() {
                if $crate::kernel_works() {
                    super::$name($crate::Datapath::Sockmap);
                }
            }

            #[test]
            fn on_splice() {
                if $crate::kernel_works() {
                    super::$name($crate::Datapath::Splice);
                }
            }
        }
    )+};
}

/// Makes the same tests and `on_handover::NAME`, in which a connection changes from relay to
/// sockmap.
#[macro_export]
macro_rules! on_all_datapaths {
    ($($name:ident),+ $(,)?) => {
        $crate::on_each_datapath!($($name),+);

        mod on_handover {
            $(
                #[test]
                fn $name() {
                    if $crate::kernel_works() {
                        super::$name($crate::Datapath::Handover);
                    }
                }
            )+
        }
    };
}
