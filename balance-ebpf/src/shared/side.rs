//! The two sides of a pair, and values that exist once for each side.
//!
//! Invariant: the client is side 0 and the backend is side 1, in shared memory and in slot numbers.

use core::{
    fmt,
    ops::{Index, IndexMut, Not},
};

use super::Shared;

/// A side of a pair. `!side` is the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// Towards the client.
    Client = 0,
    /// Towards the backend.
    Backend = 1,
}

impl Side {
    /// Both sides, the client first.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Backend];

    /// The side in the lowest bit of a number, as a slot number has it.
    #[inline(always)]
    pub const fn from_bit(number: u32) -> Self {
        // Without a branch: the verifier would check the rest of the program for each side.
        // SAFETY: 0 and 1 are the values of the enum.
        unsafe { core::mem::transmute((number & 1) as u8) }
    }

    /// 0 or 1.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl Not for Side {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self::from_bit(self as u32 ^ 1)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Backend => "backend",
        })
    }
}

/// One value for each side.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerSide<T>([T; 2]);

impl<T> PerSide<T> {
    /// The value of the client's side and the value of the backend's side.
    pub const fn new(client: T, backend: T) -> Self {
        Self([client, backend])
    }

    /// Makes the value of each side, the client's first.
    pub fn from_fn(mut make: impl FnMut(Side) -> T) -> Self {
        Self(Side::BOTH.map(&mut make))
    }

    /// Makes the value of each side, the client's first, or stops at the first error.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_from_fn<E>(mut make: impl FnMut(Side) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self([make(Side::Client)?, make(Side::Backend)?]))
    }

    /// The values, the client's first.
    pub fn into_array(self) -> [T; 2] {
        self.0
    }

    /// A reference to the value of each side.
    pub fn as_ref(&self) -> PerSide<&T> {
        PerSide(self.0.each_ref())
    }

    /// The result of a function on the value of each side.
    pub fn map<U>(self, each: impl FnMut(T) -> U) -> PerSide<U> {
        PerSide(self.0.map(each))
    }

    /// The sides with their values, the client first.
    pub fn iter(&self) -> impl Iterator<Item = (Side, &T)> {
        Side::BOTH.into_iter().zip(&self.0)
    }
}

impl<T> Index<Side> for PerSide<T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, side: Side) -> &T {
        &self.0[side.index()]
    }
}

impl<T> IndexMut<Side> for PerSide<T> {
    #[inline(always)]
    fn index_mut(&mut self, side: Side) -> &mut T {
        &mut self.0[side.index()]
    }
}

impl<T: Shared> Shared for PerSide<T> {
    type Memory = PerSide<T::Memory>;

    #[inline(always)]
    fn into_memory(self) -> Self::Memory {
        self.map(T::into_memory)
    }

    #[inline(always)]
    fn load_relaxed(memory: &Self::Memory) -> Self {
        let [client, backend] = &memory.0;
        Self([T::load_relaxed(client), T::load_relaxed(backend)])
    }

    #[inline(always)]
    fn store_relaxed(self, memory: &Self::Memory) {
        let ([client, backend], [to_client, to_backend]) = (self.0, &memory.0);
        client.store_relaxed(to_client);
        backend.store_relaxed(to_backend);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_side_is_the_opposite_of_the_other() {
        for side in Side::BOTH {
            assert_ne!(side, !side);
            assert_eq!(side, !!side);
            assert_eq!(side.index(), 1 - (!side).index());
            assert_eq!(Side::from_bit(6 + side as u32), side);
        }
        assert_eq!(Side::BOTH.map(|side| side.to_string()), ["client", "backend"]);
    }

    #[test]
    fn a_value_is_found_by_its_side() {
        let mut names = PerSide::from_fn(|side| side.to_string());
        assert_eq!(names[Side::Backend], "backend");
        names[Side::Client].push('s');
        assert_eq!(names.as_ref().map(|name| name.len()).into_array(), [7, 7]);
        assert_eq!(
            PerSide::try_from_fn(|side| if side == Side::Client { Ok(()) } else { Err(side) }),
            Err(Side::Backend)
        );
    }
}
