//! Other inputs made from those at hand: the same ones for the same seed, on every machine.
//!
//! Without coverage it finds less than libFuzzer does; it is what can run everywhere, every time.

/// A sequence of inputs.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
    words: &'static [&'static str],
}

/// The longest input it makes, in bytes.
const LONGEST: usize = 16 << 10;

impl Mutator {
    /// Starts a sequence.
    #[must_use]
    pub fn new(seed: u64, words: &'static [&'static str]) -> Self {
        // The state of this generator must not be 0.
        Self { state: seed | 1, words }
    }

    /// A changed copy of one of `inputs`. Panics when there are none.
    pub fn next(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input, inputs);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(16)).min(input.len());
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.byte(),
            2 => input.insert(at, self.byte()),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                let times = 1 + self.below(64);
                drop(input.splice(at..at, copy.repeat(times)));
            }
            5 => input.truncate(at),
            6 => {
                // The beginning of this one with the end of another.
                let other = &inputs[self.below(inputs.len())];
                input.truncate(at);
                input.extend_from_slice(&other[self.below(other.len() + 1)..]);
            }
            _ => {
                let word = self.words[self.below(self.words.len())].bytes();
                drop(input.splice(at..at, word));
            }
        }
    }

    fn byte(&mut self) -> u8 {
        const EDGES: [u8; 12] = [0, 1, 9, 10, 13, 32, 0x7f, 0x80, 0xc0, 0xff, b'"', b'%'];
        match self.below(3) {
            0 => EDGES[self.below(EDGES.len())],
            1 => b' ' + self.below(95) as u8,
            _ => self.below(256) as u8,
        }
    }

    /// 0 where `bound` is 0.
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64* (Vigna 2016).
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let value = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        // The high bits are the good ones; a bias is harmless here.
        (value >> 33) as usize % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let inputs = [b"one".to_vec(), Vec::new()];
        let make = |seed| {
            let mut mutator = Mutator::new(seed, &["word"]);
            (0..1000).map(|_| mutator.next(&inputs)).collect::<Vec<_>>()
        };
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(9));
        assert!(make(7).iter().any(|input| input.windows(4).any(|window| window == b"word")));
    }
}
