//! One connection: quinn-proto's state machine, the streams that wait for it, and what it has to tell.

use std::collections::VecDeque;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{
    Connection as Quic, ConnectionError, ConnectionEvent, ConnectionId, Dir, Side, StreamEvent,
    StreamId, TransportErrorCode,
};

use crate::acks::Acks;
use crate::config::{varint, Limits, Settings};
use crate::congestion::Gauge;
use crate::events::{cause_of, Cause, Event, Outgoing, Stats};
use crate::hearing::Hearing;
use crate::probing::Probing;
use crate::reach::{Allowance, Reach};
use crate::sealing::{Sealing, Unsealed};
use crate::streams::{End, Streams};
use crate::tail::Tail;
use crate::time::span;
use crate::window::Window;

/// Datagrams that overtook the end of the handshake and are kept for then (RFC 9001 section 5.7): an initial
/// congestion window of them and what little goes beside it. The peer would else take a path that reorders for one
/// that is congested.
const MAX_EARLY: usize = 32;
/// The kernel's limits on one segmented write: UDP_MAX_SEGMENTS, and what a UDP length field can say.
const MAX_SEGMENTS: usize = 64;
const MAX_BURST: usize = 65_000;
/// The size of a Retry's integrity tag.
const RETRY_TAG: usize = 16;

/// How long the datagram of a ping of a client is: whoever hears it at an address that it does not know (a router may
/// have given this side another port) may answer with three times as much, which is all that a path carries before
/// larger datagrams were found to fit.
const PING_SIZE: usize = 512;

/// A connection that quinn-proto made, and what is shared with its parts.
pub struct Made {
    /// The state machine.
    pub quic: Quic,
    /// In its congestion controllers.
    pub gauge: Arc<Gauge>,
    /// In its keys.
    pub sealing: Arc<Sealing>,
    /// How many bytes came of a peer that has not shown that it receives where it says to be; None of one that has.
    pub unproven: Option<usize>,
}

/// What waits to be told: an event, or a stream that is read when it is told.
enum Note {
    Event(Event),
    Readable(StreamId),
}

/// See the module.
pub struct Connection {
    /// The number that callers know it by.
    pub id: u64,
    /// The state machine.
    pub quic: Quic,
    /// When its handshake has taken too long; None when it is complete or the connection closed.
    pub deadline: Option<Instant>,
    /// The entry in the engine's timers.
    pub scheduled: Option<Instant>,
    /// Flags of the engine's queues.
    pub is_touched: bool,
    /// As above.
    pub is_eventful: bool,
    /// As above.
    pub is_heard: bool,
    /// Another has its place: it is forgotten as soon as it was told that it is over.
    pub is_replaced: bool,
    /// Told: the handshake is complete.
    pub is_connected: bool,
    /// Told: it is over.
    pub is_closed: bool,
    /// It is among the engine's remains.
    pub is_remembered: bool,
    /// This side still has to repeat that it is over.
    pub is_closing: bool,
    /// The connection ID that an outgoing connection began with.
    pub first_cid: Option<ConnectionId>,
    /// A fault for tests.
    pub must_panic: bool,
    early: Vec<ConnectionEvent>,
    closing: Option<(u64, Vec<u8>)>,
    is_admitted: bool,
    /// What a peer may be ahead of delivery, on the accepting side once it was admitted.
    window: Option<Window>,
    was_open_refused: bool,
    wants_probe: bool,
    /// The next datagram is to be long enough for an answer from where this side is not known.
    is_asking: bool,
    streams: Streams,
    notes: VecDeque<Note>,
    gauge: Arc<Gauge>,
    hearing: Hearing,
    acks: Acks,
    reach: Reach,
    /// Bytes by which datagrams were made longer than quinn-proto has counted them.
    resized: i64,
    sealing: Arc<Sealing>,
    retirements: Allowance,
    tail: Tail,
    probing: Probing,
    now: Instant,
    keys_since: u64,
    key_update_packets: u64,
}

impl Connection {
    /// Wraps what quinn-proto made.
    pub fn new(id: u64, made: Made, settings: &Settings, now: Instant) -> Self {
        let Made {
            quic,
            gauge,
            sealing,
            unproven,
        } = made;
        let patience = span(settings.handshake_timeout, 0.0);
        let address = quic.remote_address();
        let mut reach = Reach::new(address, unproven.is_none());
        reach.heard(address, unproven.unwrap_or(0), address, now);
        Self {
            id,
            is_admitted: quic.side() == Side::Client,
            quic,
            deadline: Some(now + patience),
            scheduled: None,
            is_touched: false,
            is_eventful: false,
            is_heard: false,
            is_replaced: false,
            is_connected: false,
            is_closed: false,
            is_remembered: false,
            is_closing: false,
            first_cid: None,
            must_panic: false,
            early: Vec::new(),
            closing: None,
            window: None,
            was_open_refused: false,
            wants_probe: false,
            is_asking: false,
            streams: Streams::new(settings.send_buffer),
            notes: VecDeque::new(),
            gauge,
            hearing: Hearing::new(settings.max_probe_timeout, now),
            acks: Acks::new(settings.ack_delay),
            reach,
            resized: 0,
            sealing,
            retirements: Allowance::new(now),
            tail: Tail::default(),
            probing: Probing::default(),
            now,
            keys_since: 0,
            key_update_packets: settings.key_update_packets.max(1),
        }
    }

    /// Where the peer is.
    pub fn address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Whether a peer began it and did not complete the handshake, perhaps never will.
    pub fn is_handshaking(&self) -> bool {
        !self.is_connected && self.quic.side() == Side::Server
    }

    /// When something has to be done next.
    pub fn due(&mut self) -> Option<Instant> {
        let acks = self.acks.due(self.quic.rtt());
        [
            self.quic.poll_timeout(),
            self.deadline,
            self.probe_due(),
            self.tail_due(),
            acks,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether anything waits to be told.
    pub fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    // What the application asks for

    /// Open a bidirectional stream; None while the peer allows no more.
    pub fn open(&mut self) -> Option<u64> {
        if !self.is_connected || self.is_closed {
            self.was_open_refused = true;
            return None;
        }
        let Some(id) = self.quic.streams().open(Dir::Bi) else {
            self.was_open_refused = true;
            return None;
        };
        self.streams.insert(id);
        Some(id.into())
    }

    /// How many of `offered` bytes a stream takes now.
    pub fn room(&mut self, number: u64, offered: usize) -> usize {
        if self.is_closed {
            return 0;
        }
        self.streams.room(id_of(number), offered)
    }

    /// Queue bytes for which there is room.
    pub fn write(&mut self, number: u64, data: Bytes) {
        let id = id_of(number);
        if self.streams.write(id, data) {
            self.schedule(id);
        }
    }

    /// No more bytes follow.
    pub fn finish(&mut self, number: u64) {
        let id = id_of(number);
        if self.streams.finish(id) {
            self.schedule(id);
        }
    }

    /// Give up sending.
    pub fn reset(&mut self, number: u64, code: u64) {
        self.abandon(id_of(number), code);
    }

    /// Give up reading.
    pub fn stop(&mut self, number: u64, code: u64) {
        let id = id_of(number);
        if self.streams.has_received(id) {
            // An error says that nothing is left to stop.
            let _ = self.quic.recv_stream(id).stop(varint(code));
        }
    }

    /// Send this stream's bytes first.
    pub fn prioritise(&mut self, number: u64) {
        let id = id_of(number);
        if self.streams.prioritise(id) {
            self.schedule(id);
        }
    }

    /// Raise a stranger's limits; its window is `first_window` until it has delivered something.
    pub fn admit(&mut self, trusted: Limits, first_window: u64) {
        if !mem::replace(&mut self.is_admitted, true) && !self.is_closed {
            let window = Window::new(first_window, trusted.connection_window);
            let size = varint(window.size());
            self.window = Some(window);
            self.quic
                .set_max_concurrent_streams(Dir::Bi, varint(trusted.streams));
            self.quic.set_receive_window(size);
        }
    }

    /// Send something that must be acknowledged.
    pub fn ping(&mut self) {
        if !self.is_closed {
            self.wants_probe |= self.is_connected;
            self.is_asking |= self.is_connected && self.quic.side() == Side::Client;
            self.quic.ping();
        }
    }

    /// This side's address changed.
    pub fn migrate(&mut self) {
        if self.is_connected && !self.is_closed && self.quic.side() == Side::Client {
            self.quic.local_address_changed();
            self.wants_probe = true;
            self.is_asking = true;
        }
    }

    /// End it; the goodbye is part of the next transmit.
    pub fn close(&mut self, cause: Cause, code: u64, reason: Vec<u8>) {
        if self.is_closed {
            return;
        }
        self.closing = Some((code, reason.clone()));
        self.is_closing = true;
        self.tell_closed(cause, code, reason);
    }

    /// Its path and counters.
    pub fn stats(&self) -> Stats {
        let stats = self.quic.stats();
        Stats {
            rtt: self.quic.rtt().as_secs_f64(),
            congestion_window: stats.path.cwnd.saturating_sub(self.gauge.probe()),
            bytes_in_flight: self.gauge.in_flight(),
            datagram_size: stats.path.current_mtu.into(),
            bytes_sent: stats.udp_tx.bytes.saturating_add_signed(self.resized),
            bytes_received: stats.udp_rx.bytes,
            packets_sent: stats.path.sent_packets,
            packets_received: stats.udp_rx.datagrams,
            packets_lost: stats.path.lost_packets,
            packets_acked: self.gauge.acked(),
            streams_open: self.streams.len(),
            last_heard: self.hearing.last(),
        }
    }

    // What the network does

    /// Whether a Retry is authentic (RFC 9001 section 5.8). quinn-proto checks that too, but takes no good one
    /// any more after one that was damaged or forged.
    pub fn is_valid_retry(&self, datagram: &[u8]) -> bool {
        let (Some(cid), Some(at)) = (&self.first_cid, datagram.len().checked_sub(RETRY_TAG)) else {
            return false;
        };
        let (packet, tag) = datagram.split_at(at);
        self.quic.crypto_session().is_valid_retry(cid, packet, tag)
    }

    /// Take in what the endpoint made of a datagram of `size` bytes.
    pub fn take_in(
        &mut self,
        event: ConnectionEvent,
        is_long: bool,
        from: SocketAddr,
        size: usize,
    ) {
        let current = self.quic.remote_address();
        self.reach.heard(from, size, current, self.now);
        let is_challenging = self.reach.is_challenging();
        self.sealing.watch(is_challenging);
        self.hand_over(event, is_long);
        if is_challenging {
            for token in self.sealing.responses() {
                self.reach.answered(token);
            }
        }
    }

    fn hand_over(&mut self, event: ConnectionEvent, is_long: bool) {
        if !is_long && self.quic.is_handshaking() && self.early.len() < MAX_EARLY {
            self.early.push(event);
            return;
        }
        self.quic.handle_event(event);
        if !self.quic.is_handshaking() {
            for event in mem::take(&mut self.early) {
                self.quic.handle_event(event);
            }
        }
    }

    /// Datagrams were taken in: see whether any of them was authentic.
    pub fn heard(&mut self, now: Instant) {
        self.now = now;
        let in_flight = self.gauge.in_flight();
        let frames = self.quic.stats().frame_rx;
        self.hearing.take(&frames, in_flight, now);
        self.acks.take(&frames, now);
        self.reach.tidy(self.quic.remote_address(), now);
        if !self.retirements.allows(frames.retire_connection_id, now) {
            let code = TransportErrorCode::PROTOCOL_VIOLATION.into();
            self.close(
                Cause::Protocol,
                code,
                b"Connection IDs are retired too fast".into(),
            );
        }
    }

    /// Note what the state machine says.
    pub fn collect(&mut self) {
        if mem::replace(&mut self.must_panic, false) {
            panic!("a fault on purpose");
        }
        while let Some(event) = self.quic.poll() {
            match event {
                quinn_proto::Event::Connected => self.on_connected(),
                quinn_proto::Event::ConnectionLost { reason } => self.on_lost(reason),
                quinn_proto::Event::Stream(event) => self.on_stream_event(event),
                _ => {}
            }
        }
    }

    /// Run the timers that are due.
    pub fn expire(&mut self, now: Instant) {
        self.now = now;
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            let refused = TransportErrorCode::CONNECTION_REFUSED.into();
            self.close(
                Cause::Handshake,
                refused,
                b"The handshake took too long".into(),
            );
        }
        if self.quic.poll_timeout().is_some_and(|due| due <= now) {
            self.quic.handle_timeout(now);
        }
        if self.probe_due().is_some_and(|due| due <= now) {
            self.quic.ping();
            self.wants_probe = true;
            self.is_asking = self.quic.side() == Side::Client;
            self.hearing.asked(now);
        }
        if self.tail_due().is_some_and(|due| due <= now) {
            self.quic.ping();
            self.wants_probe = true;
            self.tail.ask();
        }
    }

    /// The next write to the socket, in `buffer`, which is taken for it; after all that was handed on more is, at most
    /// `refills` times.
    pub fn next_burst(
        &mut self,
        now: Instant,
        refills: &mut usize,
        buffer: &mut Vec<u8>,
    ) -> Option<Outgoing> {
        let mtu = usize::from(self.quic.current_mtu());
        let segments = (MAX_BURST / mtu).clamp(1, MAX_SEGMENTS);
        loop {
            buffer.clear();
            let Some(sent) = self.transmit(now, segments, buffer) else {
                if *refills > 0 && self.feed(now) {
                    *refills -= 1;
                    continue;
                }
                return None;
            };
            if !buffer.is_empty() && self.reach.allows(sent.destination, buffer.len()) {
                return Some(Outgoing {
                    segment: sent.segment_size.unwrap_or(buffer.len()),
                    data: mem::take(buffer),
                    address: sent.destination,
                });
            }
        }
    }

    /// The next datagrams, in `buffer`; their size, or None when there is nothing to send now.
    fn transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        let sent = self.next_datagrams(now, max_datagrams, buffer)?;
        if let Some(size) = self.probing.sent(&self.quic.stats().path, sent.size) {
            self.gauge.set_probe(size);
        }
        Some(sent)
    }

    fn next_datagrams(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        if mem::replace(&mut self.wants_probe, false) || self.is_closed {
            // A probe (RFC 9002 section 7.5), or the goodbye, which quinn-proto would else keep back for as long as
            // data that is not sent any more would have to wait.
            let sent = self.past_the_door(now, buffer);
            if sent.is_some() {
                return sent;
            }
        }
        if let Some(sent) = self.poll(now, max_datagrams, buffer) {
            return Some(sent);
        }
        if self.acks.sent(&self.quic.stats().frame_tx)
            || !self.acks.is_overdue(now, self.quic.rtt())
        {
            return None;
        }
        // Something waits in there for the window or the pacer, and the peer's packets must not count as lost for it.
        if !self.acks.may_pass() {
            return None;
        }
        let sent = self.past_the_door(now, buffer);
        self.acks.passed(&self.quic.stats().frame_tx, now);
        sent
    }

    /// What quinn-proto sends next, as long as it may be where it goes. What may not go there at all is dropped, as the
    /// network might: the buffer is empty then.
    fn poll(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        let is_asking = mem::replace(&mut self.is_asking, false);
        if !is_asking && !self.reach.is_confined(self.quic.remote_address()) {
            return self.quic.poll_transmit(now, max_datagrams, buffer);
        }
        self.sealing.begin();
        let sent = self.quic.poll_transmit(now, 1, buffer);
        let packet = self.sealing.end();
        let sent = sent?;
        if let Some(packet) = packet {
            match self.size_of(&packet, buffer, sent.destination, is_asking) {
                Some(size) => {
                    self.resized += size as i64 - buffer.len() as i64;
                    self.sealing.seal(packet, buffer, size);
                }
                None => buffer.clear(),
            }
        }
        Some(sent)
    }

    /// How long a datagram is to be that goes there; None: it may not.
    fn size_of(
        &mut self,
        packet: &Unsealed,
        datagram: &[u8],
        to: SocketAddr,
        is_asking: bool,
    ) -> Option<usize> {
        let left = self.reach.left(to);
        let mut size = datagram.len();
        if let Some((found, least)) = packet.look(datagram) {
            // Others are as long as they are for a reason: one that finds out how much fits, say.
            let is_validation = !found.challenges.is_empty() || !found.responses.is_empty();
            if size > left && is_validation {
                size = least;
            } else if is_asking && !found.is_open {
                size = size.max(PING_SIZE);
            }
            if size <= left {
                for token in found.challenges {
                    self.reach.challenged(to, token);
                }
            }
        }
        (size <= left).then_some(size)
    }

    /// One datagram, whatever congestion control says.
    fn past_the_door(
        &mut self,
        now: Instant,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        self.gauge.set_open(true);
        let sent = self.poll(now, 1, buffer);
        self.gauge.set_open(false);
        sent
    }

    /// Before the datagrams of a turn: hand bytes on, close, update keys.
    pub fn prepare(&mut self, now: Instant) {
        self.now = now;
        if self.probing.has_ended(&self.quic.stats().path) {
            self.gauge.set_probe(0);
        }
        if let Some((code, reason)) = self.closing.take() {
            self.quic.close(now, varint(code), reason.into());
        }
        if self.is_closed {
            return;
        }
        let sent = self.quic.stats().path.sent_packets;
        if sent.saturating_sub(self.keys_since) >= self.key_update_packets {
            self.keys_since = sent;
            self.quic.force_key_update();
        }
        self.feed(now);
    }

    /// Hand on what streams have to say; whether it was anything.
    fn feed(&mut self, now: Instant) -> bool {
        // To an address that has not shown that it receives, what little may go there is a challenge.
        let is_paid = self.reach.left(self.address()) >= self.quic.current_mtu().into();
        if self.is_closed || !is_paid {
            return false;
        }
        let before = self.streams.handed_on();
        for id in self.streams.feed(&mut self.quic, &self.gauge, now) {
            self.tell(Event::Writable { stream: id.into() });
        }
        self.streams.handed_on() != before
    }

    /// After the datagrams of a turn.
    pub fn sent(&mut self, now: Instant) {
        self.hearing.sent(self.gauge.in_flight(), now);
        let (frames, rtt) = (self.quic.stats().frame_tx, self.quic.rtt());
        self.acks.sent(&frames);
        let (in_flight, mtu) = (self.gauge.in_flight(), self.quic.current_mtu());
        self.tail.sent(&frames, in_flight, mtu, rtt, now);
    }

    /// What happened since the last time. Handing data over is what opens the windows.
    pub fn drain(&mut self, told: &mut Vec<(u64, Event)>) {
        for note in mem::take(&mut self.notes) {
            match note {
                Note::Event(event) => told.push((self.id, event)),
                Note::Readable(id) => self.read(id, told),
            }
        }
    }

    /// What was to be told when a fault came between, without a look at the state machine that had it.
    pub fn last_words(&mut self, place: String, told: &mut Vec<(u64, Event)>) {
        for note in mem::take(&mut self.notes) {
            if let Note::Event(event) = note {
                told.push((self.id, event));
            }
        }
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        let event = match self.is_connected {
            true => Event::Closed {
                cause: Cause::Internal,
                code: TransportErrorCode::INTERNAL_ERROR.into(),
                reason: place.into_bytes(),
            },
            false => Event::Fault { place },
        };
        told.push((self.id, event));
    }

    // Inside

    fn tell(&mut self, event: Event) {
        if !self.is_closed {
            self.notes.push_back(Note::Event(event));
        }
    }

    /// A peer that never finished its handshake is nobody's business.
    fn tell_closed(&mut self, mut cause: Cause, code: u64, reason: Vec<u8>) {
        let kept = matches!(cause, Cause::Local | Cause::Reset | Cause::Internal);
        if !self.is_connected && !kept {
            cause = Cause::Handshake;
        }
        self.tell(Event::Closed {
            cause,
            code,
            reason,
        });
        self.is_closed = true;
        self.deadline = None;
        self.hearing.end();
        self.acks.forget();
        self.tail.end();
        self.streams.silence();
    }

    fn on_connected(&mut self) {
        if self.is_closed {
            return;
        }
        self.is_connected = true;
        self.gauge.connect(self.now);
        self.reach.prove(self.quic.remote_address());
        self.deadline = None;
        let address = self.address();
        self.tell(Event::Connected { address });
        if mem::replace(&mut self.was_open_refused, false) {
            self.tell(Event::StreamsAvailable);
        }
    }

    fn on_lost(&mut self, lost: ConnectionError) {
        if self.is_closed {
            return;
        }
        self.is_closing = matches!(lost, ConnectionError::TransportError(_));
        let (cause, code, reason) = cause_of(lost);
        self.tell_closed(cause, code, reason);
    }

    fn on_stream_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = self.quic.streams().accept(dir) {
                    self.streams.insert(id);
                    self.note_readable(id);
                }
            }
            StreamEvent::Readable { id } => self.note_readable(id),
            StreamEvent::Writable { id } => self.schedule(id),
            StreamEvent::Finished { id } => self.streams.has_sent(id),
            StreamEvent::Stopped { id, error_code } => {
                if self.abandon(id, error_code.into()) {
                    self.tell(Event::Stopped {
                        stream: id.into(),
                        code: error_code.into(),
                    });
                }
            }
            StreamEvent::Available { .. } => {
                if mem::replace(&mut self.was_open_refused, false) {
                    self.tell(Event::StreamsAvailable);
                }
            }
        }
    }

    fn note_readable(&mut self, id: StreamId) {
        if !self.is_closed && self.streams.note(id) {
            self.notes.push_back(Note::Readable(id));
        }
    }

    fn read(&mut self, id: StreamId, told: &mut Vec<(u64, Event)>) {
        let Some((chunks, end)) = self.streams.read(id, &mut self.quic) else {
            return;
        };
        self.grow_window(chunks.iter().map(Bytes::len).sum());
        let stream = id.into();
        let is_end = end == Some(End::Clean);
        if is_end || !chunks.is_empty() {
            told.push((
                self.id,
                Event::Data {
                    stream,
                    chunks,
                    end: is_end,
                },
            ));
        }
        if let Some(End::Reset(code)) = end {
            told.push((self.id, Event::Reset { stream, code }));
        }
    }

    /// So many bytes are handed over.
    fn grow_window(&mut self, bytes: usize) {
        if let Some(window) = &mut self.window {
            if window.delivered(bytes as u64) {
                self.quic.set_receive_window(varint(window.size()));
            }
        }
    }

    /// Reset the sending half; whether there was anything to reset.
    fn abandon(&mut self, id: StreamId, code: u64) -> bool {
        let was_open = self.streams.give_up(id);
        if was_open {
            // An error says that nothing is left to reset.
            let _ = self.quic.send_stream(id).reset(varint(code));
        }
        was_open
    }

    fn schedule(&mut self, id: StreamId) {
        if !self.is_closed {
            let rtt = self.quic.rtt();
            self.streams.schedule(id, self.now, rtt);
        }
    }

    fn tail_due(&self) -> Option<Instant> {
        self.tail.due(self.gauge.in_flight())
    }

    fn probe_due(&self) -> Option<Instant> {
        if !self.is_connected || self.is_closed {
            return None;
        }
        self.hearing.due(self.gauge.in_flight(), self.quic.rtt())
    }
}

fn id_of(number: u64) -> StreamId {
    StreamId::from(varint(number))
}
