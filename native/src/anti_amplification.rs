//! The anti-amplification limit of unvalidated addresses, and a limit on how fast a peer may retire connection IDs.
//!
//! quinn-proto answers challenges from any address with a full datagram, and sends more than three times what it
//! received to an address that a connection seems to have migrated to. Both would let a peer, or somebody who copied one
//! of its packets, aim this host at a third party (RFC 9000 sections 8.1 and 9.3.1). Here an address gets at most three
//! times the bytes that came from it, also after it was forgotten. `sealing` makes path validation packets short enough.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Bytes that may be sent per byte received (RFC 9000 section 8).
const AMPLIFICATION_FACTOR: usize = 3;
/// Unvalidated addresses that are tracked. The budget of a new one begins with what came from it, so forgetting one
/// costs no more than an answer: it gets nothing until more comes from there.
const MAX_ADDRESSES: usize = 8;
/// Outstanding challenges that are kept, the newest.
const MAX_CHALLENGES: usize = 16;
/// Time for which an unvalidated address without traffic is kept.
const UNVALIDATED_TTL: Duration = Duration::from_secs(1);
/// Connection IDs that a peer may retire at once, and the time after which it may retire one more.
const RETIREMENT_BURST: u64 = 256;
const RETIREMENT_INTERVAL: Duration = Duration::from_millis(100);

/// The addresses that a connection may send to, and how much.
pub struct AntiAmplification {
    /// None until the handshake is complete, if it began without Retry.
    validated: Option<SocketAddr>,
    unvalidated: VecDeque<Unvalidated>,
    challenges: VecDeque<(SocketAddr, [u8; 8])>,
}

/// An address that is not validated, and how much may be sent to it.
struct Unvalidated {
    address: SocketAddr,
    budget: usize,
    last_received: Instant,
}

impl AntiAmplification {
    /// `address`: the peer's; `is_validated`: by a Retry token.
    pub fn new(address: SocketAddr, is_validated: bool) -> Self {
        Self {
            validated: is_validated.then_some(address),
            unvalidated: VecDeque::new(),
            challenges: VecDeque::new(),
        }
    }

    /// Note a received datagram. `current`, which the connection sends to, is never forgotten for another address.
    pub fn on_datagram(
        &mut self,
        from: SocketAddr,
        size: usize,
        current: SocketAddr,
        now: Instant,
    ) {
        if Some(from) == self.validated {
            return;
        }
        if let Some(entry) = self
            .unvalidated
            .iter_mut()
            .find(|entry| entry.address == from)
        {
            entry.budget += AMPLIFICATION_FACTOR * size;
            entry.last_received = now;
            return;
        }
        if self.unvalidated.len() >= MAX_ADDRESSES {
            let index = self
                .unvalidated
                .iter()
                .position(|entry| entry.address != current);
            self.unvalidated.remove(index.unwrap_or(0));
        }
        self.unvalidated.push_back(Unvalidated {
            address: from,
            budget: AMPLIFICATION_FACTOR * size,
            last_received: now,
        });
    }

    /// Forget addresses from which nothing came for a while, except `current`, which the connection sends to.
    pub fn expire(&mut self, current: SocketAddr, now: Instant) {
        self.unvalidated.retain(|entry| {
            entry.address == current
                || now.saturating_duration_since(entry.last_received) < UNVALIDATED_TTL
        });
        if self.unvalidated.is_empty() {
            self.challenges.clear();
        }
    }

    /// Note a PATH_CHALLENGE that is sent.
    pub fn on_challenge(&mut self, to: SocketAddr, token: [u8; 8]) {
        if Some(to) == self.validated || self.challenges.contains(&(to, token)) {
            return;
        }
        if self.challenges.len() >= MAX_CHALLENGES {
            self.challenges.pop_front();
        }
        self.challenges.push_back((to, token));
    }

    /// Return true if a challenge is outstanding.
    pub fn has_challenges(&self) -> bool {
        !self.challenges.is_empty()
    }

    /// Note a PATH_RESPONSE from any address: it validates the address that the challenge was sent to (RFC 9000 section
    /// 8.2.3).
    pub fn on_response(&mut self, token: [u8; 8]) {
        let found = self.challenges.iter().find(|(_, sent)| *sent == token);
        if let Some((address, _)) = found.copied() {
            self.validate(address);
        }
    }

    /// Mark an address as validated, by a response or by a complete handshake.
    pub fn validate(&mut self, address: SocketAddr) {
        self.validated = Some(address);
        self.unvalidated.retain(|entry| entry.address != address);
        self.challenges.retain(|(to, _)| *to != address);
    }

    /// Return true if anything could be sent to an unvalidated address.
    pub fn has_unvalidated(&self, current: SocketAddr) -> bool {
        Some(current) != self.validated || !self.unvalidated.is_empty()
    }

    /// Return how many bytes may be sent to an address now.
    pub fn budget(&self, to: SocketAddr) -> usize {
        if Some(to) == self.validated {
            return usize::MAX;
        }
        let found = self.unvalidated.iter().find(|entry| entry.address == to);
        found.map_or(0, |entry| entry.budget)
    }

    /// Return true if `size` bytes may be sent to an address, and count them.
    pub fn try_send(&mut self, to: SocketAddr, size: usize) -> bool {
        if Some(to) == self.validated {
            return true;
        }
        let found = self
            .unvalidated
            .iter_mut()
            .find(|entry| entry.address == to && entry.budget >= size);
        match found {
            Some(entry) => {
                entry.budget -= size;
                true
            }
            None => false,
        }
    }
}

/// The limit on how fast a peer may retire connection IDs.
pub struct RetirementLimit {
    since: Instant,
}

impl RetirementLimit {
    /// Return a limit that begins now.
    pub fn new(now: Instant) -> Self {
        Self { since: now }
    }

    /// Return true if a peer may have retired `count` connection IDs by now.
    pub fn is_met(&self, count: u64, now: Instant) -> bool {
        let earned =
            now.saturating_duration_since(self.since).as_millis() / RETIREMENT_INTERVAL.as_millis();
        u128::from(count) <= u128::from(RETIREMENT_BURST) + earned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    const TOKEN: [u8; 8] = [7; 8];

    #[test]
    fn an_address_gets_three_times_what_it_sent_until_it_responds() {
        let mut limits = AntiAmplification::new(address(1), true);
        let now = Instant::now();
        assert!(limits.try_send(address(1), 1 << 30));
        assert!(!limits.try_send(address(2), 1));
        limits.on_datagram(address(2), 100, address(1), now);
        assert_eq!(limits.budget(address(2)), 300);
        assert!(!limits.try_send(address(2), 301));
        assert!(limits.try_send(address(2), 200));
        assert!(!limits.try_send(address(2), 101));
        limits.on_datagram(address(2), 10, address(1), now);
        assert!(limits.try_send(address(2), 130));
        limits.on_challenge(address(2), TOKEN);
        limits.on_response([8; 8]);
        assert!(!limits.try_send(address(2), 1));
        limits.on_response(TOKEN);
        assert!(limits.try_send(address(2), 1 << 30));
        assert!(!limits.try_send(address(1), 1));
    }

    #[test]
    fn forgetting_addresses_gives_nobody_more() {
        let mut limits = AntiAmplification::new(address(1), true);
        let now = Instant::now();
        let mut balance = [0i64; 200];
        for turn in 0..20_000usize {
            let from = turn * 7919 % 198 + 2;
            let (port, size) = (from as u16, 30 + turn % 50);
            limits.on_datagram(address(port), size, address(port), now);
            balance[from] += 3 * size as i64;
            for to in [from, turn % 200] {
                if limits.try_send(address(to as u16), 90) && to != 1 {
                    balance[to] -= 90;
                    assert!(balance[to] >= 0);
                }
            }
            assert!(limits.unvalidated.len() <= MAX_ADDRESSES);
        }
    }

    #[test]
    fn the_current_address_is_not_forgotten() {
        let mut limits = AntiAmplification::new(address(1), true);
        let now = Instant::now();
        limits.on_datagram(address(2), 100, address(2), now);
        for port in 3..100 {
            limits.on_datagram(address(port), 100, address(2), now);
        }
        assert_eq!(limits.budget(address(2)), 300);
        limits.expire(address(2), now + UNVALIDATED_TTL);
        assert_eq!(limits.unvalidated.len(), 1);
        limits.expire(address(1), now + UNVALIDATED_TTL);
        assert!(!limits.has_unvalidated(address(1)));
    }

    #[test]
    fn challenges_are_bounded_and_the_newest_are_kept() {
        let mut limits = AntiAmplification::new(address(1), true);
        for number in 0..200u8 {
            limits.on_challenge(address(2), [number; 8]);
        }
        assert_eq!(limits.challenges.len(), MAX_CHALLENGES);
        limits.on_response([0; 8]);
        assert_eq!(limits.validated, Some(address(1)));
        limits.on_response([199; 8]);
        assert_eq!(limits.validated, Some(address(2)));
        assert!(!limits.has_challenges());
    }

    #[test]
    fn without_retry_the_first_address_is_unvalidated() {
        let mut limits = AntiAmplification::new(address(1), false);
        assert!(!limits.try_send(address(1), 1));
        limits.on_datagram(address(1), 1200, address(1), Instant::now());
        assert!(limits.try_send(address(1), 3600));
        assert!(!limits.try_send(address(1), 1));
        limits.validate(address(1));
        assert!(limits.try_send(address(1), 1 << 30));
    }

    #[test]
    fn retirements_are_limited_by_time() {
        let now = Instant::now();
        let limit = RetirementLimit::new(now);
        assert!(limit.is_met(RETIREMENT_BURST, now));
        assert!(!limit.is_met(RETIREMENT_BURST + 1, now));
        assert!(limit.is_met(RETIREMENT_BURST + 10, now + Duration::from_secs(1)));
    }
}
