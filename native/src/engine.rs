//! Every connection of one UDP socket: quinn-proto's endpoint, and whose turn it is.

mod arrivals;
mod remains;
mod requests;
mod strangers;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{ConnectionHandle, ConnectionId, Endpoint, EndpointEvent};

use crate::config::{random, Config, Mistake, Settings};
use crate::congestion::Gauge;
use crate::connection::{Connection, Made};
use crate::containment::contained;
use crate::events::{Event, Outgoing};
use crate::sealing::Sealing;
use crate::time::Clock;
use remains::{Ration, Remains};
use strangers::Strangers;

/// The number of no connection.
const NOBODY: u64 = u64::MAX;
/// How often a connection may hand on more in one transmit, once all is sent that it handed on before: each is a burst
/// (`streams`), and other connections wait meanwhile. What is left goes when the next acknowledgement comes.
const MAX_REFILLS: usize = 3;

/// What was refused or dropped, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub retries_sent: u64,
    pub version_negotiations_sent: u64,
    pub resets_sent: u64,
    pub handshakes_begun: u64,
    pub half_open_refused: u64,
    pub strangers_replaced: u64,
    pub datagrams_dropped: u64,
    pub connections_failed: u64,
    pub panics: u64,
}

/// See the module.
pub struct Engine {
    endpoint: Endpoint,
    config: Config,
    clock: Clock,
    counters: Counters,
    connections: HashMap<usize, Connection>,
    numbers: HashMap<u64, usize>,
    next_number: u64,
    strangers: Strangers,
    touched: Vec<usize>,
    eventful: VecDeque<usize>,
    timers: BTreeSet<(Instant, usize)>,
    last_words: Vec<(u64, Event)>,
    replies: VecDeque<Outgoing>,
    resets: Ration,
    remains: Remains,
    round: Round,
    spare: Vec<u8>,
}

/// Whose turn it is to make datagrams.
struct Round {
    keys: VecDeque<usize>,
    /// How often the first of them may hand on more; None when it has not begun.
    left: Option<usize>,
    now: Instant,
}

impl Engine {
    /// Fails with a sentence about the settings.
    pub fn new(settings: Settings) -> Result<Self, Mistake> {
        let config = Config::new(settings)?;
        let strangers = Strangers::new(config.settings.max_strangers);
        Ok(Self {
            endpoint: Endpoint::new(config.endpoint.clone(), config.listening(), true, None),
            config,
            clock: Clock::new(),
            counters: Counters::default(),
            connections: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            strangers,
            touched: Vec::new(),
            eventful: VecDeque::new(),
            timers: BTreeSet::new(),
            last_words: Vec::new(),
            replies: VecDeque::new(),
            resets: Ration::new(),
            remains: Remains::default(),
            round: Round {
                keys: VecDeque::new(),
                left: None,
                now: Instant::now(),
            },
            spare: Vec::new(),
        })
    }

    /// Begin a connection; its number.
    pub fn connect(&mut self, address: SocketAddr, name: &str, now: f64) -> Result<u64, Mistake> {
        let now = self.clock.instant(now);
        let (gauge, sealing) = (Arc::new(Gauge::default()), Arc::new(Sealing::default()));
        let first = ConnectionId::new(&random::<16>()?);
        let config = self
            .config
            .connecting(gauge.clone(), sealing.clone(), first)
            .ok_or("an accepting engine does not connect")?;
        let (handle, quic) = self
            .endpoint
            .connect(now, config, address, name)
            .map_err(|error| format!("cannot connect to {name}: {error}"))?;
        let made = Made {
            quic,
            gauge,
            sealing,
            unproven: None,
        };
        let number = self.register(handle, made, now);
        if let Some(connection) = self.connections.get_mut(&handle.0) {
            connection.first_cid = Some(first);
        }
        Ok(number)
    }

    /// Take datagrams in: `(payload, segment, address)`.
    pub fn receive<'a>(
        &mut self,
        batch: impl IntoIterator<Item = (&'a [u8], usize, SocketAddr)>,
        now: f64,
    ) {
        let now = self.clock.instant(now);
        let mut heard = Vec::new();
        for (payload, segment, address) in batch {
            let segment = if segment == 0 { usize::MAX } else { segment };
            for datagram in payload.chunks(segment) {
                // A buffer for each: a byte of one must not keep a whole batch in memory.
                let datagram = BytesMut::from(datagram);
                if let Some(key) = self.take_in(datagram, address, now) {
                    if let Some(connection) = self.connections.get_mut(&key) {
                        if !mem::replace(&mut connection.is_heard, true) {
                            heard.push(key);
                        }
                    }
                }
            }
        }
        for key in heard {
            self.guarded(key, |connection, _| {
                connection.is_heard = false;
                connection.heard(now);
            });
            self.settle(key);
            self.touch(key);
        }
    }

    /// Run the timers that are due.
    pub fn expire(&mut self, now: f64) {
        let now = self.clock.instant(now);
        // Each once: what is due again at once has its next turn in the next call.
        let later = self.timers.split_off(&(now, usize::MAX));
        for (_, key) in mem::replace(&mut self.timers, later) {
            self.guarded(key, |connection, _| {
                connection.scheduled = None;
                connection.expire(now);
            });
            self.settle(key);
            self.touch(key);
        }
    }

    /// When [`Self::expire`] must be called next.
    pub fn timeout(&self) -> Option<f64> {
        self.timers.first().map(|(at, _)| self.clock.seconds(*at))
    }

    /// What happened, in order for each connection.
    pub fn poll(&mut self) -> Vec<(u64, Event)> {
        let mut told = mem::take(&mut self.last_words);
        while let Some(key) = self.eventful.pop_front() {
            self.guarded(key, |connection, _| {
                connection.is_eventful = false;
                connection.drain(&mut told);
            });
            self.settle(key);
            self.touch(key);
        }
        told.append(&mut self.last_words);
        told
    }

    /// Begin a round of datagrams: whoever has something to say now. [`Self::next_burst`] makes them.
    pub fn transmit(&mut self, now: f64) {
        self.round.now = self.clock.instant(now);
        self.round.keys.extend(mem::take(&mut self.touched));
    }

    /// The next datagrams of the round. They are made when they are asked for, in one buffer that stays warm; see
    /// [`Self::recycle`].
    pub fn next_burst(&mut self) -> Option<Outgoing> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        while let Some(key) = self.round.keys.front().copied() {
            let mut burst = None;
            let mut spare = mem::take(&mut self.spare);
            let (now, mut left) = (self.round.now, self.round.left);
            self.guarded(key, |connection, _| {
                let left = left.get_or_insert_with(|| {
                    connection.is_touched = false;
                    connection.prepare(now);
                    MAX_REFILLS
                });
                burst = connection.next_burst(now, left, &mut spare);
                if burst.is_none() {
                    connection.sent(now);
                }
            });
            if burst.is_some() {
                self.round.left = left;
                return burst;
            }
            self.spare = spare;
            self.round.left = None;
            self.round.keys.pop_front();
            self.settle(key);
            self.forget_if_replaced(key);
        }
        None
    }

    /// Give a buffer back once it is sent.
    pub fn recycle(&mut self, burst: Outgoing) {
        self.spare = burst.data;
    }

    /// Whether any connection, closing ones included, still needs the socket.
    pub fn has_connections(&self) -> bool {
        self.connections
            .values()
            .any(|connection| !connection.is_closed || connection.is_closing)
    }

    /// How many connections there are in memory, and how many of them are of peers that have not been admitted.
    pub fn population(&self) -> (usize, usize) {
        (self.connections.len(), self.strangers.len())
    }

    /// Since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // Inside

    /// Work on one connection; a panic ends that one and nothing else.
    fn guarded(&mut self, key: usize, work: impl FnOnce(&mut Connection, &mut Endpoint)) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let endpoint = &mut self.endpoint;
        // What a panic may have left half done in the connection is thrown away; the endpoint's tables are
        // only ever changed by its own calls.
        if let Err(place) = contained(|| work(connection, endpoint)) {
            self.counters.panics += 1;
            connection.last_words(place, &mut self.last_words);
            self.forget(key);
        }
    }

    /// Something went wrong that belongs to no connection.
    fn blame(&mut self, place: String) {
        self.counters.panics += 1;
        self.last_words.push((NOBODY, Event::Fault { place }));
    }

    /// Drop a connection that is not drained: its peer learns of it by a stateless reset.
    fn forget(&mut self, key: usize) {
        let drained = EndpointEvent::drained();
        let endpoint = &mut self.endpoint;
        if let Err(place) = contained(|| endpoint.handle_event(ConnectionHandle(key), drained)) {
            self.blame(place);
        }
        self.remove(key);
    }

    /// Drop a connection whose place another has, and that was told so: nothing of it is to stay in memory.
    fn forget_if_replaced(&mut self, key: usize) {
        let is_replaced = |connection: &Connection| connection.is_replaced;
        if self.connections.get(&key).is_some_and(is_replaced) {
            self.tell_all(key);
            self.forget(key);
        }
    }

    /// What was told to it, and not yet to the caller, has been taken from it before.
    fn remove(&mut self, key: usize) {
        if let Some(connection) = self.connections.remove(&key) {
            self.last_words.push((connection.id, Event::Gone));
            self.numbers.remove(&connection.id);
            if let Some(at) = connection.scheduled {
                self.timers.remove(&(at, key));
            }
            self.strangers.leave(connection.id);
            if connection.is_handshaking() && !connection.is_closed {
                self.counters.connections_failed += 1;
            }
        }
    }

    fn register(&mut self, handle: ConnectionHandle, made: Made, now: Instant) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let connection = Connection::new(number, made, &self.config.settings, now);
        self.connections.insert(handle.0, connection);
        self.numbers.insert(number, handle.0);
        self.settle(handle.0);
        self.touch(handle.0);
        number
    }

    fn touch(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(&key) {
            if !mem::replace(&mut connection.is_touched, true) {
                self.touched.push(key);
            }
        }
    }

    fn announce(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(&key) {
            if connection.has_notes() && !mem::replace(&mut connection.is_eventful, true) {
                self.eventful.push_back(key);
            }
        }
    }

    fn tell_all(&mut self, key: usize) {
        let mut told = Vec::new();
        self.guarded(key, |connection, _| connection.drain(&mut told));
        self.last_words.append(&mut told);
    }

    /// Carry what happened inside a connection to the outside, and set its timer.
    fn settle(&mut self, key: usize) {
        let mut is_drained = false;
        self.guarded(key, |connection, endpoint| {
            while let Some(event) = connection.quic.poll_endpoint_events() {
                is_drained |= event.is_drained();
                if let Some(answer) = endpoint.handle_event(ConnectionHandle(key), event) {
                    connection.quic.handle_event(answer);
                }
            }
            connection.collect();
        });
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if connection.is_closed && !connection.is_remembered {
            self.strangers.leave(connection.id);
            self.counters.connections_failed += u64::from(connection.is_handshaking());
        }
        if is_drained {
            self.tell_all(key);
            self.remove(key);
            return;
        }
        if connection.is_closed && !mem::replace(&mut connection.is_remembered, true) {
            let number = connection.id;
            if let Some((old, number)) = self.remains.add(key, number) {
                if self.numbers.get(&number) == Some(&old) {
                    self.tell_all(old);
                    self.forget(old);
                }
            }
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let due = connection.due();
        if due != connection.scheduled {
            if let Some(at) = mem::replace(&mut connection.scheduled, due) {
                self.timers.remove(&(at, key));
            }
            if let Some(at) = due {
                self.timers.insert((at, key));
            }
        }
        self.announce(key);
    }
}
