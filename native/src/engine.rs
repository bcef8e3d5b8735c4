//! The engine: quinn-proto's endpoint, and all connections of one UDP socket.

mod api;
mod closed;
mod incoming;
mod unadmitted;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{ConnectionHandle, ConnectionId, Endpoint, EndpointEvent};

use crate::clock::Clock;
use crate::config::{random, Config, Settings, SettingsError};
use crate::congestion::SendState;
use crate::connection::{Connection, ConnectionParts};
use crate::events::{Event, Outgoing};
use crate::panic::catch_panic;
use crate::sealing::Sealing;
use closed::{ClosedConnections, ResetLimiter};
use unadmitted::UnadmittedPeers;

/// The number of events that belong to no connection.
const NO_CONNECTION: u64 = u64::MAX;
/// Number of times that a connection may write more stream data to quinn-proto in one transmit, after all earlier data
/// is sent. Each time is a burst (`streams`), and other connections wait meanwhile. The rest goes with the next
/// acknowledgement.
const MAX_REFILLS: usize = 3;

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub retries_sent: u64,
    pub version_negotiations_sent: u64,
    pub resets_sent: u64,
    pub handshakes_begun: u64,
    pub half_open_refused: u64,
    pub unadmitted_evicted: u64,
    pub datagrams_dropped: u64,
    pub connections_failed: u64,
    pub panics: u64,
}

/// All connections of one UDP socket.
pub struct Engine {
    endpoint: Endpoint,
    config: Config,
    clock: Clock,
    counters: Counters,
    connections: HashMap<usize, Connection>,
    numbers: HashMap<u64, usize>,
    next_number: u64,
    unadmitted: UnadmittedPeers,
    send_queue: Vec<usize>,
    poll_queue: VecDeque<usize>,
    timers: BTreeSet<(Instant, usize)>,
    undelivered: Vec<(u64, Event)>,
    replies: VecDeque<Outgoing>,
    reset_limiter: ResetLimiter,
    closed: ClosedConnections,
    round: TransmitRound,
    buffer: Vec<u8>,
}

/// One round of transmitting: the connections that are still to send.
struct TransmitRound {
    keys: VecDeque<usize>,
    /// Number of times that the first of them may still write more; None if it has not begun.
    left: Option<usize>,
    now: Instant,
}

impl Engine {
    /// Return an engine with these settings.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let config = Config::new(settings)?;
        let unadmitted = UnadmittedPeers::new(config.settings.max_unadmitted);
        Ok(Self {
            endpoint: Endpoint::new(config.endpoint.clone(), config.server_config(), true, None),
            config,
            clock: Clock::new(),
            counters: Counters::default(),
            connections: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            unadmitted,
            send_queue: Vec::new(),
            poll_queue: VecDeque::new(),
            timers: BTreeSet::new(),
            undelivered: Vec::new(),
            replies: VecDeque::new(),
            reset_limiter: ResetLimiter::new(),
            closed: ClosedConnections::default(),
            round: TransmitRound {
                keys: VecDeque::new(),
                left: None,
                now: Instant::now(),
            },
            buffer: Vec::new(),
        })
    }

    /// Begin a connection. Returns its number.
    pub fn connect(
        &mut self,
        address: SocketAddr,
        name: &str,
        now: f64,
    ) -> Result<u64, SettingsError> {
        let now = self.clock.instant(now);
        let (send_state, sealing) = (Arc::new(SendState::default()), Arc::new(Sealing::default()));
        let first = ConnectionId::new(&random::<16>()?);
        let config = self
            .config
            .connect_config(send_state.clone(), sealing.clone(), first)
            .ok_or("an accepting engine does not connect")?;
        let (handle, quic) = self
            .endpoint
            .connect(now, config, address, name)
            .map_err(|error| format!("cannot connect to {name}: {error}"))?;
        let parts = ConnectionParts {
            quic,
            send_state,
            sealing,
            unvalidated_bytes: None,
        };
        let number = self.register(handle, parts, now);
        if let Some(connection) = self.connections.get_mut(&handle.0) {
            connection.first_cid = Some(first);
        }
        Ok(number)
    }

    /// Receive datagrams: `(payload, segment, address)`.
    pub fn receive<'a>(
        &mut self,
        batch: impl IntoIterator<Item = (&'a [u8], usize, SocketAddr)>,
        now: f64,
    ) {
        let now = self.clock.instant(now);
        let mut received = Vec::new();
        for (payload, segment, address) in batch {
            let segment = if segment == 0 { usize::MAX } else { segment };
            for datagram in payload.chunks(segment) {
                // A buffer for each, so that a byte of one does not keep a whole batch in memory.
                let datagram = BytesMut::from(datagram);
                if let Some(key) = self.dispatch(datagram, address, now) {
                    if let Some(connection) = self.connections.get_mut(&key) {
                        if !mem::replace(&mut connection.has_received, true) {
                            received.push(key);
                        }
                    }
                }
            }
        }
        for key in received {
            self.with_connection(key, |connection, _| {
                connection.has_received = false;
                connection.on_batch_received(now);
            });
            self.process(key);
            self.queue_to_send(key);
        }
    }

    /// Run the timers that are due.
    pub fn expire(&mut self, now: f64) {
        let now = self.clock.instant(now);
        // Each once: a timer that is due again at once runs in the next call.
        let later = self.timers.split_off(&(now, usize::MAX));
        for (_, key) in mem::replace(&mut self.timers, later) {
            self.with_connection(key, |connection, _| {
                connection.scheduled = None;
                connection.expire(now);
            });
            self.process(key);
            self.queue_to_send(key);
        }
    }

    /// Return when [`Self::expire`] must be called next.
    pub fn timeout(&self) -> Option<f64> {
        self.timers.first().map(|(at, _)| self.clock.seconds(*at))
    }

    /// Return the pending events, in order for each connection.
    pub fn poll(&mut self) -> Vec<(u64, Event)> {
        let mut events = mem::take(&mut self.undelivered);
        while let Some(key) = self.poll_queue.pop_front() {
            self.with_connection(key, |connection, _| {
                connection.is_queued_to_poll = false;
                connection.drain_events(&mut events);
            });
            self.process(key);
            self.queue_to_send(key);
        }
        events.append(&mut self.undelivered);
        events
    }

    /// Begin a round of transmitting, of all connections that may have something to send; see [`Self::next_burst`].
    pub fn transmit(&mut self, now: f64) {
        self.round.now = self.clock.instant(now);
        self.round.keys.extend(mem::take(&mut self.send_queue));
    }

    /// Return the next datagrams of the round, or None when it is over. They are built on demand, in one buffer that is
    /// used again; see [`Self::recycle`].
    pub fn next_burst(&mut self) -> Option<Outgoing> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        while let Some(key) = self.round.keys.front().copied() {
            let mut burst = None;
            let mut buffer = mem::take(&mut self.buffer);
            let (now, mut left) = (self.round.now, self.round.left);
            self.with_connection(key, |connection, _| {
                let left = left.get_or_insert_with(|| {
                    connection.is_queued_to_send = false;
                    connection.before_transmit(now);
                    MAX_REFILLS
                });
                burst = connection.next_burst(now, left, &mut buffer);
                if burst.is_none() {
                    connection.after_transmit(now);
                }
            });
            if burst.is_some() {
                self.round.left = left;
                return burst;
            }
            self.buffer = buffer;
            self.round.left = None;
            self.round.keys.pop_front();
            self.process(key);
            self.discard_if_replaced(key);
        }
        None
    }

    /// Give the buffer of a burst back once it is sent.
    pub fn recycle(&mut self, burst: Outgoing) {
        self.buffer = burst.data;
    }

    /// Return true if a connection, including those in the closing state, still needs the socket.
    pub fn has_connections(&self) -> bool {
        self.connections
            .values()
            .any(|connection| !connection.is_closed || connection.is_closing)
    }

    /// Return the number of connections in memory, and the number of those whose peer was not admitted.
    pub fn population(&self) -> (usize, usize) {
        (self.connections.len(), self.unadmitted.len())
    }

    /// Return the counters since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // Internals

    /// Run `work` on a connection. A panic closes that connection and nothing else.
    fn with_connection(&mut self, key: usize, work: impl FnOnce(&mut Connection, &mut Endpoint)) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let endpoint = &mut self.endpoint;
        // The connection, which a panic may have left inconsistent, is thrown away. The endpoint's tables are changed by
        // its own calls alone.
        if let Err(location) = catch_panic(|| work(connection, endpoint)) {
            self.counters.panics += 1;
            connection.events_after_panic(location, &mut self.undelivered);
            self.discard(key);
        }
    }

    /// Report a panic that belongs to no connection.
    fn report_panic(&mut self, location: String) {
        self.counters.panics += 1;
        self.undelivered
            .push((NO_CONNECTION, Event::Fault { location }));
    }

    /// Drop a connection that is not drained. Its peer gets a stateless reset if it still sends.
    fn discard(&mut self, key: usize) {
        let drained = EndpointEvent::drained();
        let endpoint = &mut self.endpoint;
        if let Err(location) = catch_panic(|| endpoint.handle_event(ConnectionHandle(key), drained))
        {
            self.report_panic(location);
        }
        self.remove(key);
    }

    /// Drop a connection whose place was given to another peer, once its close was sent.
    fn discard_if_replaced(&mut self, key: usize) {
        let is_evicted = |connection: &Connection| connection.is_evicted;
        if self.connections.get(&key).is_some_and(is_evicted) {
            self.flush_events(key);
            self.discard(key);
        }
    }

    /// Remove a connection whose events were flushed.
    fn remove(&mut self, key: usize) {
        if let Some(connection) = self.connections.remove(&key) {
            self.undelivered.push((connection.id, Event::Gone));
            self.numbers.remove(&connection.id);
            if let Some(at) = connection.scheduled {
                self.timers.remove(&(at, key));
            }
            self.unadmitted.leave(connection.id);
            if connection.is_handshaking() && !connection.is_closed {
                self.counters.connections_failed += 1;
            }
        }
    }

    fn register(&mut self, handle: ConnectionHandle, parts: ConnectionParts, now: Instant) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let connection = Connection::new(number, parts, &self.config.settings, now);
        self.connections.insert(handle.0, connection);
        self.numbers.insert(number, handle.0);
        self.process(handle.0);
        self.queue_to_send(handle.0);
        number
    }

    fn queue_to_send(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(&key) {
            if !mem::replace(&mut connection.is_queued_to_send, true) {
                self.send_queue.push(key);
            }
        }
    }

    fn queue_events(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(&key) {
            if connection.has_events() && !mem::replace(&mut connection.is_queued_to_poll, true) {
                self.poll_queue.push_back(key);
            }
        }
    }

    fn flush_events(&mut self, key: usize) {
        let mut events = Vec::new();
        self.with_connection(key, |connection, _| connection.drain_events(&mut events));
        self.undelivered.append(&mut events);
    }

    /// Pass events between a connection and the endpoint, and set its timer.
    fn process(&mut self, key: usize) {
        let mut is_drained = false;
        self.with_connection(key, |connection, endpoint| {
            while let Some(event) = connection.quic.poll_endpoint_events() {
                is_drained |= event.is_drained();
                if let Some(answer) = endpoint.handle_event(ConnectionHandle(key), event) {
                    connection.quic.handle_event(answer);
                }
            }
            connection.poll_quic();
        });
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if connection.is_closed && !connection.is_in_closed {
            self.unadmitted.leave(connection.id);
            self.counters.connections_failed += u64::from(connection.is_handshaking());
        }
        if is_drained {
            self.flush_events(key);
            self.remove(key);
            return;
        }
        if connection.is_closed && !mem::replace(&mut connection.is_in_closed, true) {
            let number = connection.id;
            if let Some((old, number)) = self.closed.add(key, number) {
                if self.numbers.get(&number) == Some(&old) {
                    self.flush_events(old);
                    self.discard(old);
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
        self.queue_events(key);
    }
}
