//! Fair places for unadmitted peers: handshakes in progress, and connections without a valid token.
//!
//! When all places are taken, a new peer replaces one of the network that holds the most (a /24 of IPv4, a /48 of IPv6),
//! and within it of the host that holds the most (an IPv4 address, a /64). The oldest place is taken away, because an
//! honest peer needs its place for a few round trips and a flood keeps all it can get. Within one host, and between peers
//! that hold equally many, a place is held for [`MIN_HOLD_TIME`] at least; the new peer is refused meanwhile.
//!
//! A handshake costs a thousand times as much as a refusal. So the place of a peer that left without being admitted becomes
//! free [`MIN_HOLD_TIME`] after it was taken, and not before. There are no more handshakes in that time than places,
//! however soon peers leave.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The least time for which a place is held: what a handshake and a greeting take on a bad path.
pub const MIN_HOLD_TIME: Duration = Duration::from_secs(1);

/// The outcome for a new peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// The peer gets a place.
    Taken,
    /// The peer gets the place of this connection, which must be closed.
    Replaces(u64),
    /// The peer gets no place.
    Refused,
}

struct Place {
    host: IpAddr,
    since: Instant,
    /// The connection is closed.
    is_left: bool,
}

/// The places of all unadmitted peers, by connection number. Every operation takes logarithmic time.
pub struct UnadmittedPeers {
    limit: usize,
    present: usize,
    places: HashMap<u64, Place>,
    by_host: HashMap<IpAddr, BTreeSet<u64>>,
    networks: Ranking,
    hosts: HashMap<IpAddr, Ranking>,
    /// Closed connections that still hold a place, the oldest first.
    left: BTreeSet<u64>,
}

impl UnadmittedPeers {
    /// `limit`: the number of places.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            present: 0,
            places: HashMap::new(),
            by_host: HashMap::new(),
            networks: Ranking::default(),
            hosts: HashMap::new(),
            left: BTreeSet::new(),
        }
    }

    /// Return how many open connections hold a place.
    pub fn len(&self) -> usize {
        self.present
    }

    /// Take a place for a connection. `address` is None if it is not validated: a spoofed address must not count against
    /// its owner. `number` is larger than those before.
    pub fn enter(&mut self, number: u64, address: Option<IpAddr>, now: Instant) -> Entry {
        self.expire_left(now);
        let host = host_prefix(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        self.add(number, host, now);
        if self.places.len() <= self.limit {
            return Entry::Taken;
        }
        let loser = self.select_loser();
        if !self.loses_to(loser, host, now) {
            self.remove(number);
            return Entry::Refused;
        }
        match self.remove(loser) {
            Some(place) if !place.is_left => Entry::Replaces(loser),
            _ => Entry::Taken,
        }
    }

    /// Give up the place of a connection that was admitted.
    pub fn admit(&mut self, number: u64) {
        self.remove(number);
    }

    /// Note that a connection is closed; does nothing if it has no place.
    pub fn leave(&mut self, number: u64) {
        if let Some(place) = self.places.get_mut(&number) {
            if !place.is_left {
                place.is_left = true;
                self.present -= 1;
                self.left.insert(number);
            }
        }
    }

    /// Return true if `loser` is to make room for a new peer of the host `newcomer`, which is counted already.
    fn loses_to(&self, loser: u64, newcomer: IpAddr, now: Instant) -> bool {
        let Some(place) = self.places.get(&loser) else {
            return false;
        };
        if now.saturating_duration_since(place.since) >= MIN_HOLD_TIME {
            return true;
        }
        let (theirs, ours) = (network_prefix(place.host), network_prefix(newcomer));
        match theirs == ours {
            true => self
                .hosts
                .get(&ours)
                .is_some_and(|hosts| hosts.size(place.host) > hosts.size(newcomer)),
            false => self.networks.size(theirs) > self.networks.size(ours),
        }
    }

    /// Return the oldest place of the host that holds the most in the network that holds the most.
    fn select_loser(&self) -> u64 {
        let oldest = || {
            let network = self.networks.largest()?;
            let host = self.hosts.get(&network)?.largest()?;
            self.by_host.get(&host)?.first().copied()
        };
        oldest().expect("places are counted where they are")
    }

    fn expire_left(&mut self, now: Instant) {
        while let Some(number) = self.left.first().copied() {
            let is_young =
                |place: &Place| now.saturating_duration_since(place.since) < MIN_HOLD_TIME;
            if self.places.get(&number).is_some_and(is_young) {
                return;
            }
            self.remove(number);
        }
    }

    fn add(&mut self, number: u64, host: IpAddr, now: Instant) {
        let network = network_prefix(host);
        let place = Place {
            host,
            since: now,
            is_left: false,
        };
        self.present += 1;
        self.places.insert(number, place);
        self.by_host.entry(host).or_default().insert(number);
        self.networks.increment(network);
        self.hosts.entry(network).or_default().increment(host);
    }

    fn remove(&mut self, number: u64) -> Option<Place> {
        self.left.remove(&number);
        let place = self.places.remove(&number)?;
        let network = network_prefix(place.host);
        self.present -= usize::from(!place.is_left);
        if let Some(numbers) = self.by_host.get_mut(&place.host) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_host.remove(&place.host);
            }
        }
        self.networks.decrement(network);
        if let Some(hosts) = self.hosts.get_mut(&network) {
            hosts.decrement(place.host);
            if hosts.sizes.is_empty() {
                self.hosts.remove(&network);
            }
        }
        Some(place)
    }
}

/// Members ordered by the number of places they hold.
#[derive(Default)]
struct Ranking {
    sizes: HashMap<IpAddr, (usize, u64)>,
    order: BTreeSet<(usize, u64, IpAddr)>,
    turns: u64,
}

impl Ranking {
    /// Return the member that holds the most; of several, the one that has done so for longest.
    fn largest(&self) -> Option<IpAddr> {
        self.order.last().map(|(_, _, member)| *member)
    }

    fn size(&self, member: IpAddr) -> usize {
        self.sizes.get(&member).map_or(0, |(size, _)| *size)
    }

    fn increment(&mut self, member: IpAddr) {
        let size = self.size(member) + 1;
        self.set(member, size);
    }

    fn decrement(&mut self, member: IpAddr) {
        let size = self.size(member).saturating_sub(1);
        self.set(member, size);
    }

    fn set(&mut self, member: IpAddr, size: usize) {
        if let Some((size, turn)) = self.sizes.remove(&member) {
            self.order.remove(&(size, turn, member));
        }
        if size > 0 {
            self.turns += 1;
            let turn = u64::MAX - self.turns;
            self.sizes.insert(member, (size, turn));
            self.order.insert((size, turn, member));
        }
    }
}

/// Return what one subscriber has: an IPv4 address, or a /64 of IPv6.
fn host_prefix(address: IpAddr) -> IpAddr {
    prefix(address, 32, 64)
}

/// Return a network that one attacker may own: a /24 of IPv4, or a /48 of IPv6, which tunnel brokers give to anybody.
fn network_prefix(address: IpAddr) -> IpAddr {
    prefix(address, 24, 48)
}

fn prefix(address: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4_address) => {
            let bits = u32::from(v4_address) & (u32::MAX << (32 - v4));
            IpAddr::V4(Ipv4Addr::from(bits))
        }
        IpAddr::V6(v6_address) => {
            let bits = u128::from(v6_address) & (u128::MAX << (128 - v6));
            IpAddr::V6(Ipv6Addr::from(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    struct Fixture {
        unadmitted: UnadmittedPeers,
        next: u64,
        now: Instant,
    }

    impl Fixture {
        fn new(limit: usize) -> Self {
            Self {
                unadmitted: UnadmittedPeers::new(limit),
                next: 0,
                now: Instant::now(),
            }
        }

        fn enter(&mut self, address: &str) -> Entry {
            self.next += 1;
            self.now += MOMENT;
            let address = address.parse().expect("an address");
            self.unadmitted.enter(self.next, Some(address), self.now)
        }
    }

    #[test]
    fn the_host_with_most_places_makes_room_for_others_at_once() {
        let mut fixture = Fixture::new(8);
        for _ in 0..8 {
            assert_eq!(fixture.enter("192.0.2.1"), Entry::Taken);
        }
        assert_eq!(fixture.enter("198.51.100.1"), Entry::Replaces(1));
        assert_eq!(fixture.enter("192.0.2.2"), Entry::Replaces(2));
        assert_eq!(fixture.enter("2001:db8::1"), Entry::Replaces(3));
        assert_eq!(fixture.unadmitted.len(), 8);
    }

    #[test]
    fn a_host_makes_room_for_itself_after_a_while() {
        let mut fixture = Fixture::new(8);
        for _ in 0..8 {
            fixture.enter("192.0.2.1");
        }
        for _ in 0..100 {
            assert_eq!(fixture.enter("192.0.2.1"), Entry::Refused);
        }
        fixture.now += MIN_HOLD_TIME;
        for oldest in 1..9 {
            assert_eq!(fixture.enter("192.0.2.1"), Entry::Replaces(oldest));
        }
        assert_eq!(fixture.enter("192.0.2.1"), Entry::Refused);
    }

    #[test]
    fn those_who_hold_equally_many_do_not_take_places_from_each_other_in_turn() {
        let mut fixture = Fixture::new(8);
        for _ in 0..8 {
            fixture.enter("192.0.2.1");
        }
        let taken = (0..1000)
            .filter(|turn| {
                let host = ["198.51.100.1", "192.0.2.1"][turn % 2];
                fixture.enter(host) != Entry::Refused
            })
            .count();
        // Until each holds half; and a few more in the rest of the time.
        assert!((4..=12).contains(&taken), "{taken}");
    }

    #[test]
    fn many_hosts_of_one_network_are_one_flood() {
        let mut fixture = Fixture::new(64);
        for number in 0..64 {
            fixture.enter(&format!("2001:db8:1:{number:x}::1"));
        }
        for number in 0..30 {
            let entry = fixture.enter(&format!("2001:db8:{:x}::1", 2 + number));
            assert_eq!(entry, Entry::Replaces(number + 1));
        }
    }

    #[test]
    fn ipv4_within_ipv6_is_ipv4() {
        let mut fixture = Fixture::new(2);
        fixture.enter("::ffff:192.0.2.1");
        fixture.enter("192.0.2.1");
        assert_eq!(fixture.enter("192.0.2.1"), Entry::Refused);
        assert_eq!(fixture.enter("::ffff:198.51.100.1"), Entry::Replaces(1));
    }

    #[test]
    fn unproven_addresses_share_one_place_among_hosts() {
        let mut fixture = Fixture::new(8);
        let now = fixture.now;
        for number in 0..100 {
            fixture.unadmitted.enter(number, None, now);
        }
        fixture.next = 100;
        assert_eq!(fixture.enter("198.51.100.1"), Entry::Replaces(0));
    }

    #[test]
    fn a_place_that_was_left_early_is_free_when_its_time_is_over() {
        let mut fixture = Fixture::new(4);
        for _ in 0..4 {
            fixture.enter("192.0.2.1");
            fixture.unadmitted.leave(fixture.next);
        }
        assert_eq!(fixture.unadmitted.len(), 0);
        assert_eq!(fixture.enter("192.0.2.1"), Entry::Refused);
        // No open connection is replaced by a peer from elsewhere.
        assert_eq!(fixture.enter("198.51.100.1"), Entry::Taken);
        fixture.now += MIN_HOLD_TIME;
        for _ in 0..3 {
            assert_eq!(fixture.enter("192.0.2.1"), Entry::Taken);
        }
        assert_eq!(fixture.unadmitted.places.len(), 4);
    }

    #[test]
    fn those_who_are_admitted_need_no_place() {
        let mut fixture = Fixture::new(2);
        for _ in 0..1000 {
            assert_eq!(fixture.enter("192.0.2.1"), Entry::Taken);
            fixture.unadmitted.admit(fixture.next);
        }
        let unadmitted = &fixture.unadmitted;
        assert_eq!(unadmitted.len(), 0);
        assert!(unadmitted.places.is_empty() && unadmitted.by_host.is_empty());
        assert!(unadmitted.hosts.is_empty() && unadmitted.networks.order.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_whatever_comes_and_goes() {
        let mut fixture = Fixture::new(16);
        for number in 0..100_000u64 {
            fixture.now += Duration::from_micros(number % 700);
            fixture.enter(&format!("10.{}.{}.1", number % 7, number % 31));
            if number % 3 == 0 {
                fixture.unadmitted.leave(fixture.next - number % 5);
            }
            if number % 11 == 0 {
                fixture.unadmitted.admit(fixture.next - number % 2);
            }
            let unadmitted = &fixture.unadmitted;
            assert!(unadmitted.places.len() <= 16 && unadmitted.len() <= 16);
            assert!(unadmitted.left.len() <= 16);
        }
    }
}
