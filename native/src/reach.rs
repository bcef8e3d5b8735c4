//! What may be sent to an address that has not shown that it receives, and how fast connection IDs may be used up.
//!
//! quinn-proto answers challenges from anywhere with a full datagram, and sends more than three times what came to an
//! address that a connection seems to have moved to: both would let a peer, or whoever copied one packet of it, aim
//! this host at somebody else (RFC 9000 sections 8.1 and 9.3.1). Here each byte that goes to an address was paid for by a
//! third of one that came from there, whatever is remembered; `sealing` makes what path validation sends short enough.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// As many times what came from an address may go to it (RFC 9000 section 8).
const FACTOR: usize = 3;
/// Addresses that are told apart. What may be sent to one is earned by what came from it, so nothing is lost but an answer
/// when one is forgotten for another: it gets nothing until more comes from there.
const MAX_ADDRESSES: usize = 8;
/// Challenges that an answer may still come to, the newest.
const MAX_CHALLENGES: usize = 16;
/// How long an address is remembered from which nothing comes any more.
const MEMORY: Duration = Duration::from_secs(1);
/// Connection IDs that a peer may use up at once, and how long one more takes.
const RETIREMENTS: u64 = 256;
const RETIREMENT: Duration = Duration::from_millis(100);

/// Where a connection may send to.
pub struct Reach {
    /// None until a handshake is complete that began without Retry.
    proven: Option<SocketAddr>,
    others: VecDeque<Other>,
    challenges: VecDeque<(SocketAddr, [u8; 8])>,
}

/// An address that has not shown that it receives.
struct Other {
    address: SocketAddr,
    left: usize,
    heard: Instant,
}

impl Reach {
    /// Of a connection whose peer is there, as it has shown or not.
    pub fn new(address: SocketAddr, is_proven: bool) -> Self {
        Self {
            proven: is_proven.then_some(address),
            others: VecDeque::new(),
            challenges: VecDeque::new(),
        }
    }

    /// A datagram came. `current` is where the connection sends to: it is not forgotten for another.
    pub fn heard(&mut self, from: SocketAddr, size: usize, current: SocketAddr, now: Instant) {
        if Some(from) == self.proven {
            return;
        }
        if let Some(other) = self.others.iter_mut().find(|other| other.address == from) {
            other.left += FACTOR * size;
            other.heard = now;
            return;
        }
        if self.others.len() >= MAX_ADDRESSES {
            let index = self
                .others
                .iter()
                .position(|other| other.address != current);
            self.others.remove(index.unwrap_or(0));
        }
        self.others.push_back(Other {
            address: from,
            left: FACTOR * size,
            heard: now,
        });
    }

    /// Forget those from which nothing came for a while, unless the connection sends there.
    pub fn tidy(&mut self, current: SocketAddr, now: Instant) {
        self.others.retain(|other| {
            other.address == current || now.saturating_duration_since(other.heard) < MEMORY
        });
        if self.others.is_empty() {
            self.challenges.clear();
        }
    }

    /// A challenge goes there.
    pub fn challenged(&mut self, to: SocketAddr, token: [u8; 8]) {
        if Some(to) == self.proven || self.challenges.contains(&(to, token)) {
            return;
        }
        if self.challenges.len() >= MAX_CHALLENGES {
            self.challenges.pop_front();
        }
        self.challenges.push_back((to, token));
    }

    /// Whether an answer to a challenge would change anything.
    pub fn is_challenging(&self) -> bool {
        !self.challenges.is_empty()
    }

    /// An answer came, from wherever: the challenge that it answers got to where it was sent (RFC 9000 section 8.2.3).
    pub fn answered(&mut self, token: [u8; 8]) {
        let found = self.challenges.iter().find(|(_, sent)| *sent == token);
        if let Some((address, _)) = found.copied() {
            self.prove(address);
        }
    }

    /// The peer has shown that it receives there, by an answer or by a complete handshake.
    pub fn prove(&mut self, address: SocketAddr) {
        self.proven = Some(address);
        self.others.retain(|other| other.address != address);
        self.challenges.retain(|(to, _)| *to != address);
    }

    /// Whether anything could go to an address that has shown nothing.
    pub fn is_confined(&self, current: SocketAddr) -> bool {
        Some(current) != self.proven || !self.others.is_empty()
    }

    /// How many bytes may go there now.
    pub fn left(&self, to: SocketAddr) -> usize {
        if Some(to) == self.proven {
            return usize::MAX;
        }
        let found = self.others.iter().find(|other| other.address == to);
        found.map_or(0, |other| other.left)
    }

    /// Whether so much may go there; it is counted then.
    pub fn allows(&mut self, to: SocketAddr, size: usize) -> bool {
        if Some(to) == self.proven {
            return true;
        }
        let found = self
            .others
            .iter_mut()
            .find(|other| other.address == to && other.left >= size);
        match found {
            Some(other) => {
                other.left -= size;
                true
            }
            None => false,
        }
    }
}

/// How many connection IDs a peer may have used up by now.
pub struct Allowance {
    since: Instant,
}

impl Allowance {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self { since: now }
    }

    /// Whether so many are not too many.
    pub fn allows(&self, count: u64, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_millis() / RETIREMENT.as_millis();
        u128::from(count) <= u128::from(RETIREMENTS) + earned
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
    fn an_address_gets_three_times_what_it_sent_until_it_has_answered() {
        let mut reach = Reach::new(address(1), true);
        let now = Instant::now();
        assert!(reach.allows(address(1), 1 << 30));
        assert!(!reach.allows(address(2), 1));
        reach.heard(address(2), 100, address(1), now);
        assert_eq!(reach.left(address(2)), 300);
        assert!(!reach.allows(address(2), 301));
        assert!(reach.allows(address(2), 200));
        assert!(!reach.allows(address(2), 101));
        reach.heard(address(2), 10, address(1), now);
        assert!(reach.allows(address(2), 130));
        reach.challenged(address(2), TOKEN);
        reach.answered([8; 8]);
        assert!(!reach.allows(address(2), 1));
        reach.answered(TOKEN);
        assert!(reach.allows(address(2), 1 << 30));
        assert!(!reach.allows(address(1), 1));
    }

    #[test]
    fn no_address_gets_more_whatever_is_forgotten() {
        let mut reach = Reach::new(address(1), true);
        let now = Instant::now();
        let mut balance = [0i64; 200];
        for turn in 0..20_000usize {
            let from = turn * 7919 % 198 + 2;
            let (port, size) = (from as u16, 30 + turn % 50);
            reach.heard(address(port), size, address(port), now);
            balance[from] += 3 * size as i64;
            for to in [from, turn % 200] {
                if reach.allows(address(to as u16), 90) && to != 1 {
                    balance[to] -= 90;
                    assert!(balance[to] >= 0);
                }
            }
            assert!(reach.others.len() <= MAX_ADDRESSES);
        }
    }

    #[test]
    fn where_the_connection_sends_to_is_not_forgotten_for_others() {
        let mut reach = Reach::new(address(1), true);
        let now = Instant::now();
        reach.heard(address(2), 100, address(2), now);
        for port in 3..100 {
            reach.heard(address(port), 100, address(2), now);
        }
        assert_eq!(reach.left(address(2)), 300);
        reach.tidy(address(2), now + MEMORY);
        assert_eq!(reach.others.len(), 1);
        reach.tidy(address(1), now + MEMORY);
        assert!(!reach.is_confined(address(1)));
    }

    #[test]
    fn challenges_are_bounded_and_the_newest_can_be_answered() {
        let mut reach = Reach::new(address(1), true);
        for number in 0..200u8 {
            reach.challenged(address(2), [number; 8]);
        }
        assert_eq!(reach.challenges.len(), MAX_CHALLENGES);
        reach.answered([0; 8]);
        assert_eq!(reach.proven, Some(address(1)));
        reach.answered([199; 8]);
        assert_eq!(reach.proven, Some(address(2)));
        assert!(!reach.is_challenging());
    }

    #[test]
    fn without_retry_the_first_address_has_shown_nothing() {
        let mut reach = Reach::new(address(1), false);
        assert!(!reach.allows(address(1), 1));
        reach.heard(address(1), 1200, address(1), Instant::now());
        assert!(reach.allows(address(1), 3600));
        assert!(!reach.allows(address(1), 1));
        reach.prove(address(1));
        assert!(reach.allows(address(1), 1 << 30));
    }

    #[test]
    fn connection_ids_are_earned_by_time() {
        let now = Instant::now();
        let allowance = Allowance::new(now);
        assert!(allowance.allows(RETIREMENTS, now));
        assert!(!allowance.allows(RETIREMENTS + 1, now));
        assert!(allowance.allows(RETIREMENTS + 10, now + Duration::from_secs(1)));
    }
}
