//! What a side says, and whether what arrives is that.
//!
//! Invariant: a byte depends on who says it and on its place alone, so that each one that is
//! missing, comes twice, at another place or out of another connection is noticed where it happens.

/// The bytes that a side of a scenario says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadGenerator(
    /// What makes it differ from others.
    pub u64,
);

impl PayloadGenerator {
    /// Fills `buffer` with what it says from `place` on.
    pub fn fill(self, place: u64, buffer: &mut [u8]) {
        let into_word = (place % 8) as usize;
        let (head, rest) = buffer.split_at_mut(buffer.len().min((8 - into_word) % 8));
        head.copy_from_slice(&self.word(place / 8)[into_word..][..head.len()]);
        for (word, chunk) in (place.div_ceil(8)..).zip(rest.chunks_mut(8)) {
            chunk.copy_from_slice(&self.word(word)[..chunk.len()]);
        }
    }

    /// Eight bytes of it, mixed as in splitmix64.
    fn word(self, number: u64) -> [u8; 8] {
        let mut word = self.0.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    }
}

/// What has arrived of a payload.
#[derive(Clone, Debug)]
pub struct PayloadChecker {
    payload: PayloadGenerator,
    received: u64,
    wrong_at: Option<u64>,
    expected: Vec<u8>,
}

impl PayloadChecker {
    /// Listens to that payload from its beginning.
    pub fn new(payload: PayloadGenerator) -> Self {
        Self { payload, received: 0, wrong_at: None, expected: Vec::new() }
    }

    /// Takes in the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        if self.wrong_at.is_none() {
            self.expected.resize(bytes.len(), 0);
            self.payload.fill(self.received, &mut self.expected);
            let differs = bytes.iter().zip(&self.expected).position(|(got, sent)| got != sent);
            self.wrong_at = differs.map(|at| self.received + at as u64);
        }
        self.received += bytes.len() as u64;
    }

    /// How many bytes have arrived.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The first place at which another byte arrived than was sent there.
    pub fn wrong_at(&self) -> Option<u64> {
        self.wrong_at
    }
}
