//! The parsers of untrusted bytes below this seam, under neutral names: `untrusted_input` runs them
//! on any input.
//!
//! Invariant: no parser here panics on any input.

pub(crate) use super::{
    relay::dump::render as render_dump,
    side::Side,
    sockmap::btf::find as btf_field_offset,
    splice::routes::{read as netlink_reply, read_part as netlink_replies},
};
