//! What is kept of connections that are over, and how many stateless resets are given.

use std::collections::VecDeque;

/// Closed connections that are remembered to repeat their goodbye, or to keep quiet (RFC 9000 section 10.2). A
/// peer decides by its delays how long that takes, so beyond these the oldest is forgotten: whoever still
/// writes to it is told by a stateless reset.
const MAX_REMAINS: usize = 1024;
/// Stateless resets at once, and per second after them: enough to tell the clients of an edge that came back.
const RESET_BURST: f64 = 500.0;
const RESET_RATE: f64 = 200.0;

/// The connections that closed last: keys and numbers.
#[derive(Default)]
pub struct Remains {
    closed: VecDeque<(usize, u64)>,
}

impl Remains {
    /// One more; the one that is to be forgotten for it, which may be gone already.
    pub fn add(&mut self, key: usize, number: u64) -> Option<(usize, u64)> {
        self.closed.push_back((key, number));
        match self.closed.len() > MAX_REMAINS {
            true => self.closed.pop_front(),
            false => None,
        }
    }
}

/// A bucket of stateless resets.
pub struct Ration {
    left: f64,
    at: f64,
}

impl Ration {
    /// A full one.
    pub fn new() -> Self {
        Self {
            left: RESET_BURST,
            at: 0.0,
        }
    }

    /// Take one, if there is one.
    pub fn take(&mut self, now: f64) -> bool {
        if now > self.at {
            self.left = (self.left + (now - self.at) * RESET_RATE).min(RESET_BURST);
            self.at = now;
        }
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_rationed() {
        let mut ration = Ration::new();
        assert_eq!((0..5000).filter(|_| ration.take(2.0)).count(), 500);
        assert_eq!((0..5000).filter(|_| ration.take(3.0)).count(), 200);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut remains = Remains::default();
        for number in 0..MAX_REMAINS {
            assert_eq!(remains.add(number, number as u64), None);
        }
        assert_eq!(remains.add(9, 9), Some((0, 0)));
    }
}
