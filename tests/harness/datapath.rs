//! Which datapath a test is about, and where the kernel's can be expected to work.

use std::{fs, path::Path};

use crate::skip;

/// A way to move the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// In user space.
    Relay,
    /// In the kernel, from the first byte.
    Sockmap,
    /// In user space until some buffers have been moved, then in the kernel.
    Handover,
    /// By the peers themselves, once user space has moved a buffer.
    Splice,
}

impl Datapath {
    /// As the option and the logs spell it.
    pub fn name(self) -> &'static str {
        match self {
            Datapath::Relay => "relay",
            Datapath::Sockmap | Datapath::Handover => "sockmap",
            Datapath::Splice => "splice",
        }
    }

    /// After how many turns of user space the program is told to hand a connection over.
    pub(crate) fn offload_after(self) -> Option<u32> {
        match self {
            Datapath::Relay => None,
            Datapath::Sockmap => Some(0),
            Datapath::Handover => Some(3),
            Datapath::Splice => Some(1),
        }
    }

    /// Whether a connection on it may end on what the program calls `name`.
    pub fn may_end_on(self, name: &str) -> bool {
        match self {
            Datapath::Relay | Datapath::Sockmap => name == self.name(),
            // One that ends early is not handed over.
            Datapath::Handover => name == "sockmap" || name == "relay",
            // Nor is one that cannot be spliced, which goes to the others.
            Datapath::Splice => ["splice", "sockmap", "relay"].contains(&name),
        }
    }
}

/// True where the datapaths in the kernel have to work; a test that gets false ends at once, and the
/// reason has been printed.
pub fn kernel_works() -> bool {
    match kernel_obstacle() {
        None => true,
        Some(reason) => {
            skip(&reason);
            false
        }
    }
}

/// Whether the program of the splice datapath goes with its process, whatever becomes of that.
pub fn has_tcx() -> bool {
    version(&release()) >= (6, 6)
}

/// Why the datapaths in the kernel cannot be expected to work in this process, if so.
pub fn kernel_obstacle() -> Option<String> {
    /// Bits of linux/capability.h.
    const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

    /// From then on all of them work.
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

/// What a kernel's release begins with.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    u64::from_str_radix(line.expect("a CapEff line").trim(), 16).expect("a hexadecimal number")
}

/// For each function of a [`Datapath`](crate::Datapath), the tests `NAME::on_relay`,
/// `NAME::on_sockmap` and `NAME::on_splice`.
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

/// The same, and `on_handover::NAME`: from relay to sockmap in the middle.
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
