//! Every connection of one UDP socket: quinn-proto's endpoint, whose turn it is, and how strangers are met.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ConnectionHandle, ConnectionId, DatagramEvent, Endpoint, EndpointEvent, Incoming, Side,
    TransportErrorCode,
};

use crate::config::{random, Config, Mistake, Settings};
use crate::congestion::Gauge;
use crate::connection::{Cause, Connection, Event, Stats};
use crate::time::Clock;

/// The kernel's limits on one segmented write: UDP_MAX_SEGMENTS, and what a UDP length field can say.
const MAX_SEGMENTS: usize = 64;
const MAX_BURST: usize = 65_000;
/// Answers to strangers that wait for the next transmit; one read of the socket brings no more than this.
const MAX_REPLIES: usize = 2048;
/// Shorter datagrams are neither a packet nor a stateless reset (RFC 9000 section 10.3).
const SMALLEST_DATAGRAM: usize = 21;
/// Buffers that are kept for the next transmit.
const MAX_SPARE: usize = 16;

/// One write to the socket: datagrams of `segment` bytes, only the last may be shorter.
pub struct Outgoing {
    /// The datagrams, back to back.
    pub data: Vec<u8>,
    /// The size of each.
    pub segment: usize,
    /// Where to.
    pub address: SocketAddr,
}

/// What was refused or dropped, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub retries_sent: u64,
    pub version_negotiations_sent: u64,
    pub resets_sent: u64,
    pub half_open_refused: u64,
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
    half_open: usize,
    touched: Vec<usize>,
    eventful: VecDeque<usize>,
    timers: BTreeSet<(Instant, usize)>,
    last_words: Vec<(u64, Event)>,
    replies: Vec<Outgoing>,
    spare: Vec<Vec<u8>>,
}

impl Engine {
    /// Fails with a sentence about the settings.
    pub fn new(settings: Settings) -> Result<Self, Mistake> {
        let config = Config::new(settings)?;
        Ok(Self {
            endpoint: Endpoint::new(config.endpoint.clone(), config.listening(), true, None),
            config,
            clock: Clock::new(),
            counters: Counters::default(),
            connections: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            half_open: 0,
            touched: Vec::new(),
            eventful: VecDeque::new(),
            timers: BTreeSet::new(),
            last_words: Vec::new(),
            replies: Vec::new(),
            spare: Vec::new(),
        })
    }

    /// Begin a connection; its number.
    pub fn connect(&mut self, address: SocketAddr, name: &str, now: f64) -> Result<u64, Mistake> {
        let now = self.clock.instant(now);
        let gauge = Arc::new(Gauge::default());
        let first = ConnectionId::new(&random::<16>()?);
        let config = self
            .config
            .connecting(gauge.clone(), first)
            .ok_or("an accepting engine does not connect")?;
        let (handle, quic) = self
            .endpoint
            .connect(now, config, address, name)
            .map_err(|error| format!("cannot connect to {name}: {error}"))?;
        let number = self.register(handle, quic, gauge, now);
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
        while let Some(&(at, key)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
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

    /// Datagrams to send now.
    pub fn transmit(&mut self, now: f64) -> Vec<Outgoing> {
        let now = self.clock.instant(now);
        let mut bursts = mem::take(&mut self.replies);
        for key in mem::take(&mut self.touched) {
            let mut spare = mem::take(&mut self.spare);
            self.guarded(key, |connection, _| {
                connection.is_touched = false;
                connection.prepare(now);
                let mtu = usize::from(connection.quic.current_mtu());
                let segments = (MAX_BURST / mtu).clamp(1, MAX_SEGMENTS);
                loop {
                    let mut data = spare.pop().unwrap_or_default();
                    data.clear();
                    let Some(transmit) = connection.transmit(now, segments, &mut data) else {
                        spare.push(data);
                        break;
                    };
                    bursts.push(Outgoing {
                        segment: transmit.segment_size.unwrap_or(data.len()),
                        data,
                        address: transmit.destination,
                    });
                }
                connection.sent(now);
            });
            self.spare = spare;
            self.settle(key);
        }
        bursts
    }

    /// Give buffers back once they are sent.
    pub fn recycle(&mut self, bursts: Vec<Outgoing>) {
        let room = MAX_SPARE.saturating_sub(self.spare.len());
        self.spare
            .extend(bursts.into_iter().take(room).map(|burst| burst.data));
    }

    /// Whether any connection, closing ones included, still needs the socket.
    pub fn has_connections(&self) -> bool {
        self.connections
            .values()
            .any(|connection| !connection.is_closed || connection.is_closing)
    }

    /// How many connections there are in memory, and how many of them are handshakes under way.
    pub fn population(&self) -> (usize, usize) {
        (self.connections.len(), self.half_open)
    }

    /// Since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // For one connection. Nothing happens, and None is returned, when it is gone.

    /// See [`Connection::open`].
    pub fn open(&mut self, number: u64) -> Option<u64> {
        self.ask(number, Connection::open).flatten()
    }

    /// Take as many bytes as there is room for; `data` is asked for exactly that many.
    pub fn write(
        &mut self,
        number: u64,
        stream: u64,
        offered: usize,
        data: impl FnOnce(usize) -> Bytes,
    ) -> usize {
        self.ask(number, |connection| {
            let room = connection.room(stream, offered);
            if room > 0 {
                connection.write(stream, data(room));
            }
            room
        })
        .unwrap_or(0)
    }

    /// See [`Connection::finish`].
    pub fn finish(&mut self, number: u64, stream: u64) {
        self.ask(number, |connection| connection.finish(stream));
    }

    /// See [`Connection::reset`].
    pub fn reset(&mut self, number: u64, stream: u64, code: u64) {
        self.ask(number, |connection| connection.reset(stream, code));
    }

    /// See [`Connection::stop`].
    pub fn stop(&mut self, number: u64, stream: u64, code: u64) {
        self.ask(number, |connection| connection.stop(stream, code));
    }

    /// See [`Connection::prioritise`].
    pub fn prioritise(&mut self, number: u64, stream: u64) {
        self.ask(number, |connection| connection.prioritise(stream));
    }

    /// See [`Connection::admit`].
    pub fn admit(&mut self, number: u64) {
        let settings = self.config.settings.clone();
        self.ask(number, |connection| connection.admit(&settings));
    }

    /// See [`Connection::ping`].
    pub fn ping(&mut self, number: u64) {
        self.ask(number, Connection::ping);
    }

    /// See [`Connection::migrate`].
    pub fn migrate(&mut self, number: u64) {
        self.ask(number, Connection::migrate);
    }

    /// See [`Connection::close`].
    pub fn close(&mut self, number: u64, code: u64, reason: Vec<u8>) {
        self.ask(number, |connection| {
            connection.close(Cause::Local, code, reason);
        });
    }

    /// See [`Connection::stats`]; the last is the time of `last_heard`.
    pub fn stats(&self, number: u64) -> Option<(Stats, f64)> {
        let connection = self.connections.get(self.numbers.get(&number)?)?;
        let stats = connection.stats();
        let heard = self.clock.seconds(stats.last_heard);
        Some((stats, heard))
    }

    /// Where the peer is.
    pub fn address(&self, number: u64) -> Option<SocketAddr> {
        let connection = self.connections.get(self.numbers.get(&number)?)?;
        Some(connection.address())
    }

    /// Whether this side began it.
    pub fn is_client(&self, number: u64) -> Option<bool> {
        let connection = self.connections.get(self.numbers.get(&number)?)?;
        Some(connection.quic.side() == Side::Client)
    }

    /// The next work on this connection panics. For tests of what that costs.
    pub fn fail(&mut self, number: u64) {
        self.ask(number, |connection| connection.must_panic = true);
    }

    // Inside

    fn ask<T>(&mut self, number: u64, work: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        let key = *self.numbers.get(&number)?;
        let mut answer = None;
        self.guarded(key, |connection, _| answer = Some(work(connection)));
        self.announce(key);
        self.touch(key);
        answer
    }

    /// Work on one connection; a panic ends that one and nothing else.
    fn guarded(&mut self, key: usize, work: impl FnOnce(&mut Connection, &mut Endpoint)) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let endpoint = &mut self.endpoint;
        // What a panic may have left half done in the connection is thrown away; the endpoint's tables are
        // only ever changed by its own calls.
        if catch_unwind(AssertUnwindSafe(|| work(connection, endpoint))).is_err() {
            self.lose(key);
        }
    }

    /// Forget a connection that panicked: its peer learns of it by a stateless reset.
    fn lose(&mut self, key: usize) {
        self.counters.panics += 1;
        let drained = EndpointEvent::drained();
        self.endpoint.handle_event(ConnectionHandle(key), drained);
        if let Some(connection) = self.connections.get_mut(&key) {
            if connection.is_connected && !connection.is_closed {
                let closed = Event::Closed {
                    cause: Cause::Internal,
                    code: TransportErrorCode::INTERNAL_ERROR.into(),
                    reason: Vec::new(),
                };
                self.last_words.push((connection.id, closed));
            }
        }
        self.remove(key);
    }

    fn remove(&mut self, key: usize) {
        if let Some(mut connection) = self.connections.remove(&key) {
            connection.drain(&mut self.last_words);
            self.last_words.push((connection.id, Event::Gone));
            self.numbers.remove(&connection.id);
            if let Some(at) = connection.scheduled {
                self.timers.remove(&(at, key));
            }
            if connection.is_counted {
                self.half_open -= 1;
                self.counters.connections_failed += 1;
            }
        }
    }

    fn register(
        &mut self,
        handle: ConnectionHandle,
        quic: quinn_proto::Connection,
        gauge: Arc<Gauge>,
        now: Instant,
    ) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let mut connection = Connection::new(number, quic, &self.config.settings, gauge, now);
        if connection.quic.side() == Side::Server {
            connection.is_counted = true;
            self.half_open += 1;
        }
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
        if connection.is_counted && (connection.is_connected || connection.is_closed) {
            connection.is_counted = false;
            self.half_open -= 1;
            self.counters.connections_failed += u64::from(connection.is_closed);
        }
        if is_drained {
            self.remove(key);
            return;
        }
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

    // Datagrams

    /// The key of the connection that a datagram was for.
    fn take_in(&mut self, datagram: BytesMut, address: SocketAddr, now: Instant) -> Option<usize> {
        if datagram.len() < SMALLEST_DATAGRAM {
            self.counters.datagrams_dropped += 1;
            return None;
        }
        let is_long = datagram[0] & 0x80 != 0;
        let mut reply = Vec::new();
        let retry = is_retry(&datagram).then(|| datagram.to_vec());
        let endpoint = &mut self.endpoint;
        let event = catch_unwind(AssertUnwindSafe(|| {
            endpoint.handle(now, address, None, None, datagram, &mut reply)
        }));
        match event {
            Ok(Some(DatagramEvent::ConnectionEvent(handle, event))) => {
                let mut is_taken = false;
                self.guarded(handle.0, |connection, _| {
                    let is_authentic = retry.is_none_or(|retry| connection.is_valid_retry(&retry));
                    if is_authentic && may_come_from(connection, address) {
                        is_taken = true;
                        connection.quic.handle_event(event);
                    }
                });
                return is_taken.then_some(handle.0);
            }
            Ok(Some(DatagramEvent::NewConnection(incoming))) => self.meet(incoming, now),
            Ok(Some(DatagramEvent::Response(_))) => {
                if !is_long {
                    if !self.config.settings.is_server {
                        return None;
                    }
                    self.counters.resets_sent += 1;
                } else if reply.get(1..5) == Some(&[0; 4]) {
                    self.counters.version_negotiations_sent += 1;
                }
                self.reply(reply, address);
            }
            Ok(None) => self.counters.datagrams_dropped += 1,
            Err(_) => self.counters.panics += 1,
        }
        None
    }

    /// A valid first packet of a stranger.
    fn meet(&mut self, incoming: Incoming, now: Instant) {
        let address = incoming.remote_address();
        let mut reply = Vec::new();
        if self.config.settings.retry && !incoming.remote_address_validated() {
            if self.endpoint.retry(incoming, &mut reply).is_ok() {
                self.counters.retries_sent += 1;
                self.reply(reply, address);
            }
            return;
        }
        if self.half_open >= self.config.settings.max_half_open {
            self.counters.half_open_refused += 1;
            self.endpoint.ignore(incoming);
            return;
        }
        let gauge = Arc::new(Gauge::default());
        let config = self.config.accepting(gauge.clone());
        let endpoint = &mut self.endpoint;
        let accepted = catch_unwind(AssertUnwindSafe(|| {
            endpoint.accept(incoming, now, &mut reply, config)
        }));
        match accepted {
            Ok(Ok((handle, quic))) => {
                self.register(handle, quic, gauge, now);
            }
            Ok(Err(error)) => {
                self.counters.connections_failed += 1;
                if error.response.is_some() {
                    self.reply(reply, address);
                }
            }
            Err(_) => self.counters.panics += 1,
        }
    }

    fn reply(&mut self, data: Vec<u8>, address: SocketAddr) {
        if self.replies.len() < MAX_REPLIES {
            self.replies.push(Outgoing {
                segment: data.len(),
                data,
                address,
            });
        }
    }
}

/// RFC 9000 section 17.2.5.
fn is_retry(datagram: &[u8]) -> bool {
    datagram[0] & 0xF0 == 0xF0 && datagram.get(1..5) == Some(&[0, 0, 0, 1])
}

/// A public peer does not turn into a neighbour: that is request forgery (RFC 9000 section 21.5.6).
fn may_come_from(connection: &Connection, address: SocketAddr) -> bool {
    let current = connection.address();
    address.ip() == current.ip() || is_public(address.ip()) || !is_public(current.ip())
}

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && b & 0xC0 == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && b & 0xFE == 18))
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            !(v6.is_loopback()
                || v6.is_unspecified()
                || first & 0xFE00 == 0xFC00
                || first & 0xFFC0 == 0xFE80
                || (first == 0x2001 && v6.segments()[1] == 0x0DB8))
        }
    }
}
