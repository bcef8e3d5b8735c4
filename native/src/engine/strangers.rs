//! Places for peers that have not been admitted: handshakes under way, and connections without a good token.
//!
//! When all places are taken, the network that holds the most of them (a /24 of IPv4, a /48 of IPv6) makes room for a
//! newcomer of another, and within it the host (an IPv4 address, a /64) that holds the most. The place that has been held
//! for longest is given up, because an honest peer needs its place for a few round trips and a flood keeps all it can get.
//! Among those who hold equally many, and within one host, a place is held for [`PATIENCE`] at least: the newcomer is
//! refused meanwhile.
//!
//! A handshake costs a thousand times what it costs to refuse one. So the place of a peer that went away without having
//! been admitted is free [`PATIENCE`] after it was taken, and not before: strangers have no more handshakes in that time than
//! there are places, however soon they give them up.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How long a handshake and a greeting take on bad paths, and for how long one costs a place at least.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What became of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// It has a place.
    Taken,
    /// It has the place of this connection, which is to be closed.
    Replaces(u64),
    /// There is no place for it now.
    Refused,
}

struct Place {
    host: IpAddr,
    since: Instant,
    /// The connection is over.
    is_left: bool,
}

/// The places of all strangers, by the number of their connection. Every operation takes logarithmic time.
pub struct Strangers {
    limit: usize,
    present: usize,
    places: HashMap<u64, Place>,
    by_host: HashMap<IpAddr, BTreeSet<u64>>,
    networks: Ranking,
    hosts: HashMap<IpAddr, Ranking>,
    /// Connections that are over and have a place, the oldest first.
    left: BTreeSet<u64>,
}

impl Strangers {
    /// At most `limit` places.
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

    /// How many connections have a place.
    pub fn len(&self) -> usize {
        self.present
    }

    /// Take a place for a connection. `address` is None where the peer has not shown that it receives there: whoever
    /// says to come from somewhere could else make others hold the most. `number` is larger than those before.
    pub fn enter(&mut self, number: u64, address: Option<IpAddr>, now: Instant) -> Entry {
        self.free_what_was_left(now);
        let host = host_of(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        self.add(number, host, now);
        if self.places.len() <= self.limit {
            return Entry::Taken;
        }
        let loser = self.first_to_go();
        if !self.must_go(loser, host, now) {
            self.remove(number);
            return Entry::Refused;
        }
        match self.remove(loser) {
            Some(place) if !place.is_left => Entry::Replaces(loser),
            _ => Entry::Taken,
        }
    }

    /// The connection was admitted: it is no stranger any more.
    pub fn admit(&mut self, number: u64) {
        self.remove(number);
    }

    /// The connection is over; nothing happens if it has no place.
    pub fn leave(&mut self, number: u64) {
        if let Some(place) = self.places.get_mut(&number) {
            if !place.is_left {
                place.is_left = true;
                self.present -= 1;
                self.left.insert(number);
            }
        }
    }

    /// Whether the oldest place of those who hold the most is to be given up for a newcomer, which is counted already.
    fn must_go(&self, loser: u64, newcomer: IpAddr, now: Instant) -> bool {
        let Some(place) = self.places.get(&loser) else {
            return false;
        };
        if now.saturating_duration_since(place.since) >= PATIENCE {
            return true;
        }
        let (theirs, ours) = (network_of(place.host), network_of(newcomer));
        match theirs == ours {
            true => self
                .hosts
                .get(&ours)
                .is_some_and(|hosts| hosts.size(place.host) > hosts.size(newcomer)),
            false => self.networks.size(theirs) > self.networks.size(ours),
        }
    }

    /// The oldest place of the host that holds the most in the network that holds the most.
    fn first_to_go(&self) -> u64 {
        let oldest = || {
            let network = self.networks.most()?;
            let host = self.hosts.get(&network)?.most()?;
            self.by_host.get(&host)?.first().copied()
        };
        oldest().expect("places are counted where they are")
    }

    fn free_what_was_left(&mut self, now: Instant) {
        while let Some(number) = self.left.first().copied() {
            let is_young = |place: &Place| now.saturating_duration_since(place.since) < PATIENCE;
            if self.places.get(&number).is_some_and(is_young) {
                return;
            }
            self.remove(number);
        }
    }

    fn add(&mut self, number: u64, host: IpAddr, now: Instant) {
        let network = network_of(host);
        let place = Place {
            host,
            since: now,
            is_left: false,
        };
        self.present += 1;
        self.places.insert(number, place);
        self.by_host.entry(host).or_default().insert(number);
        self.networks.more(network);
        self.hosts.entry(network).or_default().more(host);
    }

    fn remove(&mut self, number: u64) -> Option<Place> {
        self.left.remove(&number);
        let place = self.places.remove(&number)?;
        let network = network_of(place.host);
        self.present -= usize::from(!place.is_left);
        if let Some(numbers) = self.by_host.get_mut(&place.host) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_host.remove(&place.host);
            }
        }
        self.networks.less(network);
        if let Some(hosts) = self.hosts.get_mut(&network) {
            hosts.less(place.host);
            if hosts.sizes.is_empty() {
                self.hosts.remove(&network);
            }
        }
        Some(place)
    }
}

/// Members by how many places they hold.
#[derive(Default)]
struct Ranking {
    sizes: HashMap<IpAddr, (usize, u64)>,
    order: BTreeSet<(usize, u64, IpAddr)>,
    turns: u64,
}

impl Ranking {
    /// The member that holds the most; of several, the one that has done so for longest.
    fn most(&self) -> Option<IpAddr> {
        self.order.last().map(|(_, _, member)| *member)
    }

    fn size(&self, member: IpAddr) -> usize {
        self.sizes.get(&member).map_or(0, |(size, _)| *size)
    }

    fn more(&mut self, member: IpAddr) {
        let size = self.size(member) + 1;
        self.set(member, size);
    }

    fn less(&mut self, member: IpAddr) {
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

/// What one subscriber has: an IPv4 address, or a /64 of IPv6.
fn host_of(address: IpAddr) -> IpAddr {
    prefix(address, 32, 64)
}

/// What one stranger may have all addresses of: a /24 of IPv4, or a /48 of IPv6, which tunnel brokers give to anybody.
fn network_of(address: IpAddr) -> IpAddr {
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

    struct Door {
        strangers: Strangers,
        next: u64,
        now: Instant,
    }

    impl Door {
        fn new(limit: usize) -> Self {
            Self {
                strangers: Strangers::new(limit),
                next: 0,
                now: Instant::now(),
            }
        }

        fn come(&mut self, address: &str) -> Entry {
            self.next += 1;
            self.now += MOMENT;
            let address = address.parse().expect("an address");
            self.strangers.enter(self.next, Some(address), self.now)
        }
    }

    #[test]
    fn the_host_with_most_places_makes_room_for_others_at_once() {
        let mut door = Door::new(8);
        for _ in 0..8 {
            assert_eq!(door.come("192.0.2.1"), Entry::Taken);
        }
        assert_eq!(door.come("198.51.100.1"), Entry::Replaces(1));
        assert_eq!(door.come("192.0.2.2"), Entry::Replaces(2));
        assert_eq!(door.come("2001:db8::1"), Entry::Replaces(3));
        assert_eq!(door.strangers.len(), 8);
    }

    #[test]
    fn a_host_makes_room_for_itself_after_a_while() {
        let mut door = Door::new(8);
        for _ in 0..8 {
            door.come("192.0.2.1");
        }
        for _ in 0..100 {
            assert_eq!(door.come("192.0.2.1"), Entry::Refused);
        }
        door.now += PATIENCE;
        for oldest in 1..9 {
            assert_eq!(door.come("192.0.2.1"), Entry::Replaces(oldest));
        }
        assert_eq!(door.come("192.0.2.1"), Entry::Refused);
    }

    #[test]
    fn those_who_hold_equally_many_do_not_take_places_from_each_other_in_turn() {
        let mut door = Door::new(8);
        for _ in 0..8 {
            door.come("192.0.2.1");
        }
        let taken = (0..1000)
            .filter(|turn| {
                let host = ["198.51.100.1", "192.0.2.1"][turn % 2];
                door.come(host) != Entry::Refused
            })
            .count();
        // Until both have half of them; and what the second thousand milliseconds bring.
        assert!((4..=12).contains(&taken), "{taken}");
    }

    #[test]
    fn many_hosts_of_one_network_are_one_flood() {
        let mut door = Door::new(64);
        for number in 0..64 {
            door.come(&format!("2001:db8:1:{number:x}::1"));
        }
        for number in 0..30 {
            let entry = door.come(&format!("2001:db8:{:x}::1", 2 + number));
            assert_eq!(entry, Entry::Replaces(number + 1));
        }
    }

    #[test]
    fn ipv4_within_ipv6_is_ipv4() {
        let mut door = Door::new(2);
        door.come("::ffff:192.0.2.1");
        door.come("192.0.2.1");
        assert_eq!(door.come("192.0.2.1"), Entry::Refused);
        assert_eq!(door.come("::ffff:198.51.100.1"), Entry::Replaces(1));
    }

    #[test]
    fn unproven_addresses_share_one_place_among_hosts() {
        let mut door = Door::new(8);
        let now = door.now;
        for number in 0..100 {
            door.strangers.enter(number, None, now);
        }
        door.next = 100;
        assert_eq!(door.come("198.51.100.1"), Entry::Replaces(0));
    }

    #[test]
    fn a_place_that_was_left_early_is_free_when_its_time_is_over() {
        let mut door = Door::new(4);
        for _ in 0..4 {
            door.come("192.0.2.1");
            door.strangers.leave(door.next);
        }
        assert_eq!(door.strangers.len(), 0);
        assert_eq!(door.come("192.0.2.1"), Entry::Refused);
        // Nobody is to be closed for one from elsewhere.
        assert_eq!(door.come("198.51.100.1"), Entry::Taken);
        door.now += PATIENCE;
        for _ in 0..3 {
            assert_eq!(door.come("192.0.2.1"), Entry::Taken);
        }
        assert_eq!(door.strangers.places.len(), 4);
    }

    #[test]
    fn those_who_are_admitted_need_no_place() {
        let mut door = Door::new(2);
        for _ in 0..1000 {
            assert_eq!(door.come("192.0.2.1"), Entry::Taken);
            door.strangers.admit(door.next);
        }
        let strangers = &door.strangers;
        assert_eq!(strangers.len(), 0);
        assert!(strangers.places.is_empty() && strangers.by_host.is_empty());
        assert!(strangers.hosts.is_empty() && strangers.networks.order.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_whatever_comes_and_goes() {
        let mut door = Door::new(16);
        for number in 0..100_000u64 {
            door.now += Duration::from_micros(number % 700);
            door.come(&format!("10.{}.{}.1", number % 7, number % 31));
            if number % 3 == 0 {
                door.strangers.leave(door.next - number % 5);
            }
            if number % 11 == 0 {
                door.strangers.admit(door.next - number % 2);
            }
            let strangers = &door.strangers;
            assert!(strangers.places.len() <= 16 && strangers.len() <= 16);
            assert!(strangers.left.len() <= 16);
        }
    }
}
