//! Generates the bytes that a side sends, and checks those that arrive.
//!
//! Invariant: a byte depends only on its stream and its offset. So a byte that is lost, duplicated,
//! misplaced, or from another connection is detected where it happens.

/// Generates the payload of one direction of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadGenerator(
    /// The seed of the payload.
    pub u64,
);

impl PayloadGenerator {
    /// Fills `buffer` with the payload from offset `place` on.
    pub fn fill(self, place: u64, buffer: &mut [u8]) {
        let into_word = (place % 8) as usize;
        let (head, rest) = buffer.split_at_mut(buffer.len().min((8 - into_word) % 8));
        head.copy_from_slice(&self.word(place / 8)[into_word..][..head.len()]);
        for (word, chunk) in (place.div_ceil(8)..).zip(rest.chunks_mut(8)) {
            chunk.copy_from_slice(&self.word(word)[..chunk.len()]);
        }
    }

    /// Eight bytes of the payload, mixed as in splitmix64.
    fn word(self, number: u64) -> [u8; 8] {
        let mut word = self.0.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    }
}

/// Checks a received payload.
#[derive(Clone, Debug)]
pub struct PayloadChecker {
    payload: PayloadGenerator,
    received: u64,
    wrong_at: Option<u64>,
    expected: Vec<u8>,
}

impl PayloadChecker {
    /// Expects this payload from its first byte.
    pub fn new(payload: PayloadGenerator) -> Self {
        Self { payload, received: 0, wrong_at: None, expected: Vec::new() }
    }

    /// Checks the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        if self.wrong_at.is_none() {
            self.expected.resize(bytes.len(), 0);
            self.payload.fill(self.received, &mut self.expected);
            let differs = bytes.iter().zip(&self.expected).position(|(got, sent)| got != sent);
            self.wrong_at = differs.map(|at| self.received + at as u64);
        }
        self.received += bytes.len() as u64;
    }

    /// Number of bytes received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Offset of the first wrong byte.
    pub fn wrong_at(&self) -> Option<u64> {
        self.wrong_at
    }
}
