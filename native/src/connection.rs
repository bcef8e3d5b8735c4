//! One connection: quinn-proto's state machine, the send queues of its streams, and its pending events.

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

use crate::ack_delay::AckDelay;
use crate::anti_amplification::{AntiAmplification, RetirementLimit};
use crate::clock::duration;
use crate::config::{varint, Limits, Settings};
use crate::congestion::SendState;
use crate::events::{cause_of, Cause, Event, Outgoing, Stats};
use crate::liveness::Liveness;
use crate::mtu_probe::MtuProbe;
use crate::sealing::{Sealing, Unsealed};
use crate::streams::{End, Streams};
use crate::tail_loss_probe::TailLossProbe;
use crate::window::ReceiveWindow;

/// 1-RTT packets that overtook the end of the handshake and are kept until then (RFC 9001 section 5.7): an initial
/// congestion window of them and a few more. Without this the peer takes reordering for congestion.
const MAX_EARLY_PACKETS: usize = 32;
/// The kernel's limits on one segmented write: UDP_MAX_SEGMENTS, and the UDP length field.
const MAX_SEGMENTS: usize = 64;
const MAX_BURST: usize = 65_000;
/// The length of a Retry's integrity tag.
const RETRY_TAG_LEN: usize = 16;

/// The datagram size of a client's PING. A NAT may have given the client another port; the peer may then answer the
/// unvalidated address with three times as much, which is a full datagram before path MTU discovery.
const CLIENT_PING_SIZE: usize = 512;

/// A new connection of quinn-proto, and the state that is shared with its parts.
pub struct ConnectionParts {
    /// The state machine.
    pub quic: Quic,
    /// Shared with its congestion controllers.
    pub send_state: Arc<SendState>,
    /// Shared with its keys.
    pub sealing: Arc<Sealing>,
    /// Bytes received so far if the address of the peer is not validated; None if it is.
    pub unvalidated_bytes: Option<usize>,
}

/// A pending event, or a stream that is read when the caller polls.
enum Pending {
    Event(Event),
    Readable(StreamId),
}

/// A connection of an engine.
pub struct Connection {
    /// The number by which callers know it.
    pub id: u64,
    /// The state machine.
    pub quic: Quic,
    /// Time at which the handshake times out; None once it is complete or the connection is closed.
    pub deadline: Option<Instant>,
    /// The entry in the engine's timers.
    pub scheduled: Option<Instant>,
    /// True while the connection is in the engine's queue of those that may have something to send.
    pub is_queued_to_send: bool,
    /// True while the connection is in the engine's queue of those that have events.
    pub is_queued_to_poll: bool,
    /// True if the connection received a datagram in the current batch.
    pub has_received: bool,
    /// True if another peer got its place: the connection is dropped once its close was sent.
    pub is_evicted: bool,
    /// The handshake is complete, and the caller was told so.
    pub is_connected: bool,
    /// True once the caller was told that the connection is closed.
    pub is_closed: bool,
    /// True while the connection is among the engine's closed ones.
    pub is_in_closed: bool,
    /// True in the closing state: this side may have to repeat CONNECTION_CLOSE.
    pub is_closing: bool,
    /// The first destination connection ID of an outgoing connection.
    pub first_cid: Option<ConnectionId>,
    /// The next work on it panics, for tests.
    pub inject_panic: bool,
    early_packets: Vec<ConnectionEvent>,
    pending_close: Option<(u64, Vec<u8>)>,
    is_admitted: bool,
    /// The receive window, on the accepting side once the peer was admitted.
    window: Option<ReceiveWindow>,
    wants_streams_available: bool,
    wants_bypass: bool,
    /// The next datagram is padded, so that a peer which does not know our address may answer.
    pad_ping: bool,
    streams: Streams,
    pending_events: VecDeque<Pending>,
    send_state: Arc<SendState>,
    liveness: Liveness,
    ack_delay: AckDelay,
    anti_amplification: AntiAmplification,
    /// Bytes by which datagrams were made longer than quinn-proto counted.
    size_correction: i64,
    sealing: Arc<Sealing>,
    retirement_limit: RetirementLimit,
    tail_loss_probe: TailLossProbe,
    mtu_probe: MtuProbe,
    now: Instant,
    last_key_update: u64,
    key_update_packets: u64,
}

impl Connection {
    /// Wrap a new connection of quinn-proto.
    pub fn new(id: u64, parts: ConnectionParts, settings: &Settings, now: Instant) -> Self {
        let ConnectionParts {
            quic,
            send_state,
            sealing,
            unvalidated_bytes,
        } = parts;
        let timeout = duration(settings.handshake_timeout, 0.0);
        let address = quic.remote_address();
        let mut anti_amplification = AntiAmplification::new(address, unvalidated_bytes.is_none());
        anti_amplification.on_datagram(address, unvalidated_bytes.unwrap_or(0), address, now);
        Self {
            id,
            is_admitted: quic.side() == Side::Client,
            quic,
            deadline: Some(now + timeout),
            scheduled: None,
            is_queued_to_send: false,
            is_queued_to_poll: false,
            has_received: false,
            is_evicted: false,
            is_connected: false,
            is_closed: false,
            is_in_closed: false,
            is_closing: false,
            first_cid: None,
            inject_panic: false,
            early_packets: Vec::new(),
            pending_close: None,
            window: None,
            wants_streams_available: false,
            wants_bypass: false,
            pad_ping: false,
            streams: Streams::new(settings.send_buffer),
            pending_events: VecDeque::new(),
            send_state,
            liveness: Liveness::new(settings.max_probe_timeout, now),
            ack_delay: AckDelay::new(settings.ack_delay),
            anti_amplification,
            size_correction: 0,
            sealing,
            retirement_limit: RetirementLimit::new(now),
            tail_loss_probe: TailLossProbe::default(),
            mtu_probe: MtuProbe::default(),
            now,
            last_key_update: 0,
            key_update_packets: settings.key_update_packets.max(1),
        }
    }

    /// Return the address of the peer.
    pub fn address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Return true if it is an incoming connection whose handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        !self.is_connected && self.quic.side() == Side::Server
    }

    /// Return when the next timer is due.
    pub fn due(&mut self) -> Option<Instant> {
        let ack_due = self.ack_delay.due(self.quic.rtt());
        [
            self.quic.poll_timeout(),
            self.deadline,
            self.liveness_due(),
            self.tail_loss_probe_due(),
            ack_due,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Return true if events are pending.
    pub fn has_events(&self) -> bool {
        !self.pending_events.is_empty()
    }

    // Calls of the application

    /// Open a bidirectional stream; None while the peer allows no more.
    pub fn open(&mut self) -> Option<u64> {
        if !self.is_connected || self.is_closed {
            self.wants_streams_available = true;
            return None;
        }
        let Some(id) = self.quic.streams().open(Dir::Bi) else {
            self.wants_streams_available = true;
            return None;
        };
        self.streams.insert(id);
        Some(id.into())
    }

    /// Return how many of `offered` bytes a stream accepts now.
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

    /// End the sending half; no more bytes follow.
    pub fn finish(&mut self, number: u64) {
        let id = id_of(number);
        if self.streams.finish(id) {
            self.schedule(id);
        }
    }

    /// Reset the sending half.
    pub fn reset(&mut self, number: u64, code: u64) {
        self.reset_stream(id_of(number), code);
    }

    /// Stop reading (STOP_SENDING).
    pub fn stop(&mut self, number: u64, code: u64) {
        let id = id_of(number);
        if self.streams.on_receive_finished(id) {
            // An error means that there is nothing to stop.
            let _ = self.quic.recv_stream(id).stop(varint(code));
        }
    }

    /// Send the bytes of this stream first.
    pub fn prioritise(&mut self, number: u64) {
        let id = id_of(number);
        if self.streams.prioritise(id) {
            self.schedule(id);
        }
    }

    /// Raise the limits of a peer that was admitted; `first_window` is its initial receive window.
    pub fn admit(&mut self, trusted: Limits, first_window: u64) {
        if !mem::replace(&mut self.is_admitted, true) && !self.is_closed {
            let window = ReceiveWindow::new(first_window, trusted.connection_window);
            let size = varint(window.size());
            self.window = Some(window);
            self.quic
                .set_max_concurrent_streams(Dir::Bi, varint(trusted.streams));
            self.quic.set_receive_window(size);
        }
    }

    /// Send a PING.
    pub fn ping(&mut self) {
        if !self.is_closed {
            self.wants_bypass |= self.is_connected;
            self.pad_ping |= self.is_connected && self.quic.side() == Side::Client;
            self.quic.ping();
        }
    }

    /// Move to another path, because the local address changed.
    pub fn migrate(&mut self) {
        if self.is_connected && !self.is_closed && self.quic.side() == Side::Client {
            self.quic.local_address_changed();
            self.wants_bypass = true;
            self.pad_ping = true;
        }
    }

    /// Close it; CONNECTION_CLOSE is part of the next transmit.
    pub fn close(&mut self, cause: Cause, code: u64, reason: Vec<u8>) {
        if self.is_closed {
            return;
        }
        self.pending_close = Some((code, reason.clone()));
        self.is_closing = true;
        self.on_closed(cause, code, reason);
    }

    /// Return path state and counters.
    pub fn stats(&self) -> Stats {
        let stats = self.quic.stats();
        Stats {
            rtt: self.quic.rtt().as_secs_f64(),
            congestion_window: stats.path.cwnd.saturating_sub(self.send_state.mtu_probe()),
            bytes_in_flight: self.send_state.in_flight(),
            datagram_size: stats.path.current_mtu.into(),
            bytes_sent: stats
                .udp_tx
                .bytes
                .saturating_add_signed(self.size_correction),
            bytes_received: stats.udp_rx.bytes,
            packets_sent: stats.path.sent_packets,
            packets_received: stats.udp_rx.datagrams,
            packets_lost: stats.path.lost_packets,
            packets_acked: self.send_state.acked_packets(),
            streams_open: self.streams.len(),
            last_heard: self.liveness.last_heard(),
        }
    }

    // Events of the network

    /// Return true if a Retry is authentic (RFC 9001 section 5.8). quinn-proto checks that too, but after a damaged or
    /// forged one it accepts no valid one any more.
    pub fn is_valid_retry(&self, datagram: &[u8]) -> bool {
        let (Some(cid), Some(at)) = (&self.first_cid, datagram.len().checked_sub(RETRY_TAG_LEN))
        else {
            return false;
        };
        let (packet, tag) = datagram.split_at(at);
        self.quic.crypto_session().is_valid_retry(cid, packet, tag)
    }

    /// Process the endpoint's event for a datagram of `size` bytes.
    pub fn on_datagram(
        &mut self,
        event: ConnectionEvent,
        is_long: bool,
        from: SocketAddr,
        size: usize,
    ) {
        let current = self.quic.remote_address();
        self.anti_amplification
            .on_datagram(from, size, current, self.now);
        let is_challenging = self.anti_amplification.has_challenges();
        self.sealing.watch(is_challenging);
        self.process(event, is_long);
        if is_challenging {
            for token in self.sealing.responses() {
                self.anti_amplification.on_response(token);
            }
        }
    }

    fn process(&mut self, event: ConnectionEvent, is_long: bool) {
        if !is_long && self.quic.is_handshaking() && self.early_packets.len() < MAX_EARLY_PACKETS {
            self.early_packets.push(event);
            return;
        }
        self.quic.handle_event(event);
        if !self.quic.is_handshaking() {
            for event in mem::take(&mut self.early_packets) {
                self.quic.handle_event(event);
            }
        }
    }

    /// Update timers and limits after a batch of received datagrams.
    pub fn on_batch_received(&mut self, now: Instant) {
        self.now = now;
        let in_flight = self.send_state.in_flight();
        let frames = self.quic.stats().frame_rx;
        self.liveness.on_received(&frames, in_flight, now);
        self.ack_delay.on_received(&frames, now);
        self.anti_amplification
            .expire(self.quic.remote_address(), now);
        if !self
            .retirement_limit
            .is_met(frames.retire_connection_id, now)
        {
            let code = TransportErrorCode::PROTOCOL_VIOLATION.into();
            self.close(
                Cause::Protocol,
                code,
                b"Connection IDs are retired too fast".into(),
            );
        }
    }

    /// Collect the events of the state machine.
    pub fn poll_quic(&mut self) {
        if mem::replace(&mut self.inject_panic, false) {
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
        if self.liveness_due().is_some_and(|due| due <= now) {
            self.quic.ping();
            self.wants_bypass = true;
            self.pad_ping = self.quic.side() == Side::Client;
            self.liveness.on_ping(now);
        }
        if self.tail_loss_probe_due().is_some_and(|due| due <= now) {
            self.quic.ping();
            self.wants_bypass = true;
            self.tail_loss_probe.on_probe();
        }
    }

    /// Return the next write to the socket, in `buffer`. When quinn-proto has sent all that was written to it, write more,
    /// at most `refills` times.
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
            if !buffer.is_empty()
                && self
                    .anti_amplification
                    .try_send(sent.destination, buffer.len())
            {
                return Some(Outgoing {
                    segment: sent.segment_size.unwrap_or(buffer.len()),
                    data: mem::take(buffer),
                    address: sent.destination,
                });
            }
        }
    }

    /// Put the next datagrams into `buffer`. Returns None if there is nothing to send now.
    fn transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        let sent = self.next_datagrams(now, max_datagrams, buffer)?;
        if let Some(size) = self.mtu_probe.on_sent(&self.quic.stats().path, sent.size) {
            self.send_state.set_mtu_probe(size);
        }
        Some(sent)
    }

    fn next_datagrams(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        if mem::replace(&mut self.wants_bypass, false) || self.is_closed {
            // A probe (RFC 9002 section 7.5), or CONNECTION_CLOSE, which quinn-proto holds back as long as pending data
            // would have to wait.
            let sent = self.transmit_past_window(now, buffer);
            if sent.is_some() {
                return sent;
            }
        }
        if let Some(sent) = self.poll(now, max_datagrams, buffer) {
            return Some(sent);
        }
        if self.ack_delay.on_sent(&self.quic.stats().frame_tx)
            || !self.ack_delay.is_overdue(now, self.quic.rtt())
        {
            return None;
        }
        // Data waits for the window or the pacer, and the acknowledgement with it: the peer must not take its packets for
        // lost.
        if !self.ack_delay.may_bypass_window() {
            return None;
        }
        let sent = self.transmit_past_window(now, buffer);
        self.ack_delay.on_bypass(&self.quic.stats().frame_tx, now);
        sent
    }

    /// Put the next datagrams of quinn-proto into `buffer`, shortened to the anti-amplification limit of their address. A
    /// datagram that may not be sent at all is dropped, as the network might drop it: the buffer is empty then.
    fn poll(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        let pad_ping = mem::replace(&mut self.pad_ping, false);
        if !pad_ping
            && !self
                .anti_amplification
                .has_unvalidated(self.quic.remote_address())
        {
            return self.quic.poll_transmit(now, max_datagrams, buffer);
        }
        self.sealing.defer();
        let sent = self.quic.poll_transmit(now, 1, buffer);
        let packet = self.sealing.take_unsealed();
        let sent = sent?;
        if let Some(packet) = packet {
            match self.datagram_size(&packet, buffer, sent.destination, pad_ping) {
                Some(size) => {
                    self.size_correction += size as i64 - buffer.len() as i64;
                    self.sealing.seal(packet, buffer, size);
                }
                None => buffer.clear(),
            }
        }
        Some(sent)
    }

    /// Return the size that a datagram to this address is to have; None if it may not be sent.
    fn datagram_size(
        &mut self,
        packet: &Unsealed,
        datagram: &[u8],
        to: SocketAddr,
        pad_ping: bool,
    ) -> Option<usize> {
        let budget = self.anti_amplification.budget(to);
        let mut size = datagram.len();
        if let Some((found, least)) = packet.inspect(datagram) {
            // Other packets have their size for a reason, such as path MTU probes.
            let is_validation = !found.challenges.is_empty() || !found.responses.is_empty();
            if size > budget && is_validation {
                size = least;
            } else if pad_ping && !found.is_open_ended {
                size = size.max(CLIENT_PING_SIZE);
            }
            if size <= budget {
                for token in found.challenges {
                    self.anti_amplification.on_challenge(to, token);
                }
            }
        }
        (size <= budget).then_some(size)
    }

    /// Send one datagram past the congestion window and the pacer.
    fn transmit_past_window(
        &mut self,
        now: Instant,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        self.send_state.set_bypass(true);
        let sent = self.poll(now, 1, buffer);
        self.send_state.set_bypass(false);
        sent
    }

    /// Prepare for a turn of transmitting: close, update keys, write stream data.
    pub fn before_transmit(&mut self, now: Instant) {
        self.now = now;
        if self.mtu_probe.has_finished(&self.quic.stats().path) {
            self.send_state.set_mtu_probe(0);
        }
        if let Some((code, reason)) = self.pending_close.take() {
            self.quic.close(now, varint(code), reason.into());
        }
        if self.is_closed {
            return;
        }
        let sent = self.quic.stats().path.sent_packets;
        if sent.saturating_sub(self.last_key_update) >= self.key_update_packets {
            self.last_key_update = sent;
            self.quic.force_key_update();
        }
        self.feed(now);
    }

    /// Write stream data to quinn-proto. Returns true if there was any.
    fn feed(&mut self, now: Instant) -> bool {
        // The small budget of an unvalidated address is for path validation.
        let has_budget =
            self.anti_amplification.budget(self.address()) >= self.quic.current_mtu().into();
        if self.is_closed || !has_budget {
            return false;
        }
        let before = self.streams.bytes_written();
        for id in self.streams.feed(&mut self.quic, &self.send_state, now) {
            self.push_event(Event::Writable { stream: id.into() });
        }
        self.streams.bytes_written() != before
    }

    /// Update timers after a turn of transmitting.
    pub fn after_transmit(&mut self, now: Instant) {
        self.liveness.on_sent(self.send_state.in_flight(), now);
        let (frames, rtt) = (self.quic.stats().frame_tx, self.quic.rtt());
        self.ack_delay.on_sent(&frames);
        let (in_flight, mtu) = (self.send_state.in_flight(), self.quic.current_mtu());
        self.tail_loss_probe
            .on_sent(&frames, in_flight, mtu, rtt, now);
    }

    /// Move the pending events to `events`. Reading stream data opens the flow control windows.
    pub fn drain_events(&mut self, events: &mut Vec<(u64, Event)>) {
        for pending in mem::take(&mut self.pending_events) {
            match pending {
                Pending::Event(event) => events.push((self.id, event)),
                Pending::Readable(id) => self.read(id, events),
            }
        }
    }

    /// Move the pending events to `events` after a panic, without touching the state machine that panicked.
    pub fn events_after_panic(&mut self, location: String, events: &mut Vec<(u64, Event)>) {
        for pending in mem::take(&mut self.pending_events) {
            if let Pending::Event(event) = pending {
                events.push((self.id, event));
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
                reason: location.into_bytes(),
            },
            false => Event::Fault { location },
        };
        events.push((self.id, event));
    }

    // Internals

    fn push_event(&mut self, event: Event) {
        if !self.is_closed {
            self.pending_events.push_back(Pending::Event(event));
        }
    }

    /// Mark it as closed. If the handshake was never complete, most causes become [`Cause::Handshake`].
    fn on_closed(&mut self, mut cause: Cause, code: u64, reason: Vec<u8>) {
        let is_specific = matches!(cause, Cause::Local | Cause::Reset | Cause::Internal);
        if !self.is_connected && !is_specific {
            cause = Cause::Handshake;
        }
        self.push_event(Event::Closed {
            cause,
            code,
            reason,
        });
        self.is_closed = true;
        self.deadline = None;
        self.liveness.cancel();
        self.ack_delay.clear();
        self.tail_loss_probe.cancel();
        self.streams.clear_schedule();
    }

    fn on_connected(&mut self) {
        if self.is_closed {
            return;
        }
        self.is_connected = true;
        self.send_state.on_connected(self.now);
        self.anti_amplification.validate(self.quic.remote_address());
        self.deadline = None;
        let address = self.address();
        self.push_event(Event::Connected { address });
        if mem::replace(&mut self.wants_streams_available, false) {
            self.push_event(Event::StreamsAvailable);
        }
    }

    fn on_lost(&mut self, lost: ConnectionError) {
        if self.is_closed {
            return;
        }
        self.is_closing = matches!(lost, ConnectionError::TransportError(_));
        let (cause, code, reason) = cause_of(lost);
        self.on_closed(cause, code, reason);
    }

    fn on_stream_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = self.quic.streams().accept(dir) {
                    self.streams.insert(id);
                    self.push_readable(id);
                }
            }
            StreamEvent::Readable { id } => self.push_readable(id),
            StreamEvent::Writable { id } => self.schedule(id),
            StreamEvent::Finished { id } => self.streams.on_send_finished(id),
            StreamEvent::Stopped { id, error_code } => {
                if self.reset_stream(id, error_code.into()) {
                    self.push_event(Event::Stopped {
                        stream: id.into(),
                        code: error_code.into(),
                    });
                }
            }
            StreamEvent::Available { .. } => {
                if mem::replace(&mut self.wants_streams_available, false) {
                    self.push_event(Event::StreamsAvailable);
                }
            }
        }
    }

    fn push_readable(&mut self, id: StreamId) {
        if !self.is_closed && self.streams.mark_readable(id) {
            self.pending_events.push_back(Pending::Readable(id));
        }
    }

    fn read(&mut self, id: StreamId, events: &mut Vec<(u64, Event)>) {
        let Some((chunks, end)) = self.streams.read(id, &mut self.quic) else {
            return;
        };
        self.on_delivered(chunks.iter().map(Bytes::len).sum());
        let stream = id.into();
        let is_end = end == Some(End::Clean);
        if is_end || !chunks.is_empty() {
            events.push((
                self.id,
                Event::Data {
                    stream,
                    chunks,
                    end: is_end,
                },
            ));
        }
        if let Some(End::Reset(code)) = end {
            events.push((self.id, Event::Reset { stream, code }));
        }
    }

    /// Grow the receive window after the application was given so many bytes.
    fn on_delivered(&mut self, bytes: usize) {
        if let Some(window) = &mut self.window {
            if window.on_delivered(bytes as u64) {
                self.quic.set_receive_window(varint(window.size()));
            }
        }
    }

    /// Reset the sending half. Returns false if it had ended already.
    fn reset_stream(&mut self, id: StreamId, code: u64) -> bool {
        let was_open = self.streams.stop_sending(id);
        if was_open {
            // An error means that there is nothing to reset.
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

    fn tail_loss_probe_due(&self) -> Option<Instant> {
        self.tail_loss_probe.due(self.send_state.in_flight())
    }

    fn liveness_due(&self) -> Option<Instant> {
        if !self.is_connected || self.is_closed {
            return None;
        }
        self.liveness
            .due(self.send_state.in_flight(), self.quic.rtt())
    }
}

fn id_of(number: u64) -> StreamId {
    StreamId::from(varint(number))
}
