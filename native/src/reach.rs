//! What may be sent to an address that has not shown that it receives, and how fast connection IDs may be used up.
//!
//! quinn-proto answers challenges from anywhere with a full datagram, and sends more than three times what came to an
//! address that a connection seems to have moved to: both would let a peer, or whoever copied one packet of it, aim
//! this host at somebody else (RFC 9000 sections 8.1 and 9.3.1).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// As many times what came from an address may go to it.
const FACTOR: usize = 3;
/// One challenge now and then for each address that a connection moves to, however little comes from there: a router that
/// gives a quiet client another port is the common case, or one whose window is full and who only asks for an answer.
/// quinn-proto's are as large as the path carried before; on no more than this there are routers that do such things.
const CHALLENGE: usize = 1500;
const NOW_AND_THEN: Duration = Duration::from_millis(250);
/// Addresses that are told apart; the oldest is forgotten.
const MAX_ADDRESSES: usize = 8;
/// Connection IDs that a peer may use up at once, and how long one more takes.
const RETIREMENTS: u64 = 256;
const RETIREMENT: Duration = Duration::from_millis(100);

/// Where a connection may send to.
pub struct Reach {
    proven: SocketAddr,
    responses: u64,
    others: VecDeque<Other>,
}

/// An address that has not shown that it receives.
struct Other {
    address: SocketAddr,
    left: usize,
    challenged: Instant,
}

impl Reach {
    /// Of a connection whose peer is there; during the handshake quinn-proto itself takes care.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            proven: address,
            responses: 0,
            others: VecDeque::new(),
        }
    }

    /// A datagram came.
    pub fn heard(&mut self, from: SocketAddr, size: usize, now: Instant) {
        if from == self.proven {
            return;
        }
        if let Some(other) = self.others.iter_mut().find(|other| other.address == from) {
            other.left += FACTOR * size;
            if now.saturating_duration_since(other.challenged) >= NOW_AND_THEN {
                other.left = other.left.max(CHALLENGE);
                other.challenged = now;
            }
            return;
        }
        if self.others.len() >= MAX_ADDRESSES {
            self.others.pop_front();
        }
        self.others.push_back(Other {
            address: from,
            left: CHALLENGE + FACTOR * size,
            challenged: now,
        });
    }

    /// So many answers to challenges have come, and quinn-proto takes this address for the peer's.
    pub fn prove(&mut self, responses: u64, address: SocketAddr) {
        if responses != self.responses {
            self.responses = responses;
            self.proven = address;
            self.others.retain(|other| other.address != address);
        }
    }

    /// Whether so much may go there; it is counted then.
    pub fn allows(&mut self, to: SocketAddr, size: usize) -> bool {
        if to == self.proven {
            return true;
        }
        match self
            .others
            .iter_mut()
            .find(|other| other.address == to && other.left >= size)
        {
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

    #[test]
    fn an_address_gets_little_until_it_has_answered() {
        let mut reach = Reach::new(address(1));
        assert!(reach.allows(address(1), 1 << 30));
        assert!(!reach.allows(address(2), 1));
        let now = Instant::now();
        reach.heard(address(2), 100, now);
        assert!(reach.allows(address(2), CHALLENGE));
        assert!(!reach.allows(address(2), CHALLENGE));
        assert!(reach.allows(address(2), 300));
        reach.heard(address(2), 500, now);
        assert!(reach.allows(address(2), CHALLENGE));
        reach.heard(address(2), 40, now + NOW_AND_THEN / 2);
        assert!(!reach.allows(address(2), CHALLENGE));
        reach.heard(address(2), 40, now + NOW_AND_THEN);
        assert!(reach.allows(address(2), CHALLENGE));
        reach.heard(address(2), 40, now + NOW_AND_THEN);
        assert!(!reach.allows(address(2), CHALLENGE));
        reach.prove(1, address(2));
        assert!(reach.allows(address(2), 1 << 30));
        assert!(!reach.allows(address(1), 1));
    }

    #[test]
    fn addresses_are_bounded() {
        let mut reach = Reach::new(address(1));
        for port in 2..1000 {
            reach.heard(address(port), 1200, Instant::now());
        }
        assert_eq!(reach.others.len(), MAX_ADDRESSES);
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
