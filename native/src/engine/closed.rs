//! Connections in the closing or draining state, and the limit on stateless resets.

use std::collections::VecDeque;

/// Closed connections that are kept, to repeat CONNECTION_CLOSE or to stay silent (RFC 9000 section 10.2). A peer
/// decides by its delays how long that takes. Beyond this number the oldest is dropped: a peer that still sends to it
/// gets a stateless reset.
const MAX_CLOSED: usize = 1024;
/// Stateless resets at once, and per second after that: enough to tell the clients of an edge that was restarted.
const RESET_BURST: f64 = 500.0;
const RESET_RATE: f64 = 200.0;

/// The keys and numbers of the connections that closed last.
#[derive(Default)]
pub struct ClosedConnections {
    closed: VecDeque<(usize, u64)>,
}

impl ClosedConnections {
    /// Add a connection. Returns the one to drop for it, which may be gone already.
    pub fn add(&mut self, key: usize, number: u64) -> Option<(usize, u64)> {
        self.closed.push_back((key, number));
        match self.closed.len() > MAX_CLOSED {
            true => self.closed.pop_front(),
            false => None,
        }
    }
}

/// A token bucket of stateless resets.
pub struct ResetLimiter {
    tokens: f64,
    updated: f64,
}

impl ResetLimiter {
    /// Return a full bucket.
    pub fn new() -> Self {
        Self {
            tokens: RESET_BURST,
            updated: 0.0,
        }
    }

    /// Take a token. Returns false if there is none.
    pub fn try_take(&mut self, now: f64) -> bool {
        if now > self.updated {
            self.tokens = (self.tokens + (now - self.updated) * RESET_RATE).min(RESET_BURST);
            self.updated = now;
        }
        let is_allowed = self.tokens >= 1.0;
        if is_allowed {
            self.tokens -= 1.0;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_limited() {
        let mut limiter = ResetLimiter::new();
        assert_eq!((0..5000).filter(|_| limiter.try_take(2.0)).count(), 500);
        assert_eq!((0..5000).filter(|_| limiter.try_take(3.0)).count(), 200);
    }

    #[test]
    fn the_oldest_is_dropped() {
        let mut closed = ClosedConnections::default();
        for number in 0..MAX_CLOSED {
            assert_eq!(closed.add(number, number as u64), None);
        }
        assert_eq!(closed.add(9, 9), Some((0, 0)));
    }
}
