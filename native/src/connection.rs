//! One connection: quinn-proto's state machine, the bytes that wait for it, and what it has to tell.
//!
//! quinn-proto buffers what is written up to one limit for all streams, so a stream that is late would find
//! the buffer full. Streams therefore queue here, each up to its own limit, and no more than congestion
//! control can use is handed on; what has little to say goes first.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use quinn_proto::{
    Connection as Quic, ConnectionError, ConnectionId, Dir, FrameStats, ReadError, SendStream,
    Side, StreamEvent, StreamId, TransportErrorCode, WriteError,
};

use crate::config::{varint, Settings};
use crate::congestion::Gauge;

/// A stream with fewer bytes than this in a round trip goes before bulk: it is somebody who types.
const SPARSE: usize = 1000;
/// Datagrams' worth of bytes that a stream hands to quinn-proto before the next one has its turn, and bytes
/// when it is alone.
const TURN: usize = 2;
const LONELY_TURN: usize = 64 * 1024;
/// Bytes that quinn-proto holds beyond two congestion windows: one for what is in flight, one for what is
/// acknowledged behind a gap, and this for the next transmit.
const SLACK: u64 = 128 * 1024;

/// The size of a Retry's integrity tag.
const RETRY_TAG: usize = 16;

/// Why a connection is over, by the names of the seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Cause {
    Local,
    Peer,
    Timeout,
    Reset,
    Handshake,
    Protocol,
    Internal,
}

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    Connected,
    Data {
        stream: u64,
        chunks: Vec<Bytes>,
        end: bool,
    },
    Reset {
        stream: u64,
        code: u64,
    },
    Stopped {
        stream: u64,
        code: u64,
    },
    Writable {
        stream: u64,
    },
    StreamsAvailable,
    Closed {
        cause: Cause,
        code: u64,
        reason: Vec<u8>,
    },
    /// Nothing is left of it; its number is never used again.
    Gone,
}

/// See `Stats` on the Python side.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Stats {
    pub rtt: f64,
    pub congestion_window: u64,
    pub bytes_in_flight: u64,
    pub datagram_size: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub packets_sent: u64,
    pub packets_received: u64,
    pub packets_lost: u64,
    pub streams_open: usize,
    pub last_heard: Instant,
}

/// What waits to be told: an event, or a stream that is read when it is told.
enum Note {
    Event(Event),
    Readable(StreamId),
}

#[derive(Default)]
struct Stream {
    queue: VecDeque<Bytes>,
    queued: usize,
    finishing: bool,
    is_short: bool,
    is_first: bool,
    /// Whether it stands in one of the two queues.
    is_ready: bool,
    /// When it had its last turn: whoever waits longest is next, in whatever order quinn-proto unblocks them.
    turn: u64,
    /// Whether a note says that it is to be read.
    is_noted: bool,
    /// Bytes handed on since `recent_since`.
    recent: usize,
    recent_since: Option<Instant>,
    priority: i32,
    has_sent: bool,
    has_received: bool,
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
    /// It counts as a handshake under way.
    pub is_counted: bool,
    /// Told: the handshake is complete.
    pub is_connected: bool,
    /// Told: it is over.
    pub is_closed: bool,
    /// This side still has to repeat that it is over.
    pub is_closing: bool,
    /// The connection ID that an outgoing connection began with.
    pub first_cid: Option<ConnectionId>,
    /// A fault for tests.
    pub must_panic: bool,
    closing: Option<(u64, Vec<u8>)>,
    is_admitted: bool,
    was_open_refused: bool,
    wants_probe: bool,
    streams: HashMap<StreamId, Stream>,
    urgent: VecDeque<StreamId>,
    ready: BTreeSet<(u64, StreamId)>,
    turns: u64,
    notes: VecDeque<Note>,
    gauge: Arc<Gauge>,
    now: Instant,
    last_heard: Instant,
    frames_heard: u64,
    /// Since when an acknowledgement is awaited and nothing was heard.
    silent_since: Option<Instant>,
    keys_since: u64,
    send_buffer: usize,
    probe_timeout: Duration,
    key_update_packets: u64,
}

impl Connection {
    /// Wraps what quinn-proto made.
    pub fn new(id: u64, quic: Quic, settings: &Settings, gauge: Arc<Gauge>, now: Instant) -> Self {
        let patience = Duration::from_secs_f64(settings.handshake_timeout.clamp(0.0, 1e9));
        Self {
            id,
            is_admitted: quic.side() == Side::Client,
            quic,
            deadline: Some(now + patience),
            scheduled: None,
            is_touched: false,
            is_eventful: false,
            is_heard: false,
            is_counted: false,
            is_connected: false,
            is_closed: false,
            is_closing: false,
            first_cid: None,
            must_panic: false,
            closing: None,
            was_open_refused: false,
            wants_probe: false,
            streams: HashMap::new(),
            urgent: VecDeque::new(),
            ready: BTreeSet::new(),
            turns: 0,
            notes: VecDeque::new(),
            gauge,
            now,
            last_heard: now,
            frames_heard: 0,
            silent_since: None,
            keys_since: 0,
            send_buffer: settings.send_buffer,
            probe_timeout: Duration::from_secs_f64(settings.max_probe_timeout.clamp(0.01, 1e9)),
            key_update_packets: settings.key_update_packets.max(1),
        }
    }

    /// Where the peer is.
    pub fn address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// When something has to be done next.
    pub fn due(&mut self) -> Option<Instant> {
        [self.quic.poll_timeout(), self.deadline, self.probe_due()]
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
        self.streams.insert(id, Stream::default());
        Some(id.into())
    }

    /// How many of `offered` bytes a stream takes now.
    pub fn room(&mut self, number: u64, offered: usize) -> usize {
        if self.is_closed {
            return 0;
        }
        let limit = self.send_buffer;
        match self.streams.get_mut(&id_of(number)) {
            Some(stream) if !stream.has_sent && !stream.finishing => {
                let room = limit.saturating_sub(stream.queued).min(offered);
                stream.is_short |= room < offered;
                room
            }
            _ => 0,
        }
    }

    /// Queue bytes for which there is room.
    pub fn write(&mut self, number: u64, data: Bytes) {
        let id = id_of(number);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.queued += data.len();
            stream.queue.push_back(data);
            self.schedule(id);
        }
    }

    /// No more bytes follow.
    pub fn finish(&mut self, number: u64) {
        let id = id_of(number);
        if let Some(stream) = self.streams.get_mut(&id) {
            if !stream.has_sent && !mem::replace(&mut stream.finishing, true) {
                self.schedule(id);
            }
        }
    }

    /// Give up sending.
    pub fn reset(&mut self, number: u64, code: u64) {
        self.abandon(id_of(number), code);
    }

    /// Give up reading.
    pub fn stop(&mut self, number: u64, code: u64) {
        let id = id_of(number);
        match self.streams.get_mut(&id) {
            Some(stream) if !stream.has_received => stream.has_received = true,
            _ => return,
        }
        // An error says that nothing is left to stop.
        let _ = self.quic.recv_stream(id).stop(varint(code));
        self.forget_if_over(id);
    }

    /// Send this stream's bytes first.
    pub fn prioritise(&mut self, number: u64) {
        let id = id_of(number);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_first = true;
            if mem::replace(&mut stream.is_ready, false) {
                self.ready.remove(&(stream.turn, id));
                self.urgent.retain(|other| *other != id);
                self.schedule(id);
            }
        }
    }

    /// Raise a stranger's limits.
    pub fn admit(&mut self, settings: &Settings) {
        if !mem::replace(&mut self.is_admitted, true) && !self.is_closed {
            let trusted = settings.trusted;
            self.quic
                .set_max_concurrent_streams(Dir::Bi, varint(trusted.streams));
            self.quic
                .set_receive_window(varint(trusted.connection_window));
        }
    }

    /// Send something that must be acknowledged.
    pub fn ping(&mut self) {
        if !self.is_closed {
            self.wants_probe |= self.is_connected;
            self.quic.ping();
        }
    }

    /// This side's address changed.
    pub fn migrate(&mut self) {
        if self.is_connected && !self.is_closed && self.quic.side() == Side::Client {
            self.quic.local_address_changed();
            self.wants_probe = true;
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
            congestion_window: stats.path.cwnd,
            bytes_in_flight: self.gauge.in_flight(),
            datagram_size: stats.path.current_mtu.into(),
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            packets_sent: stats.path.sent_packets,
            packets_received: stats.udp_rx.datagrams,
            packets_lost: stats.path.lost_packets,
            streams_open: self.streams.len(),
            last_heard: self.last_heard,
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

    /// Datagrams were taken in: see whether any of them was authentic.
    pub fn heard(&mut self, now: Instant) {
        self.now = now;
        let frames = count(&self.quic.stats().frame_rx);
        if frames != self.frames_heard {
            self.frames_heard = frames;
            self.last_heard = now;
            self.silent_since = (self.gauge.in_flight() > 0).then_some(now);
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
            self.silent_since = Some(now);
        }
    }

    /// The next datagrams, in `buffer`; their size, or None when there is nothing to send now.
    pub fn transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        if mem::replace(&mut self.wants_probe, false) {
            // One datagram, whatever congestion control says: RFC 9002 section 7.5.
            self.gauge.set_open(true);
            let sent = self.quic.poll_transmit(now, 1, buffer);
            self.gauge.set_open(false);
            if sent.is_some() {
                return sent;
            }
        }
        self.quic.poll_transmit(now, max_datagrams, buffer)
    }

    /// Before the datagrams of a turn: hand bytes on, close, update keys.
    pub fn prepare(&mut self, now: Instant) {
        self.now = now;
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
        self.feed();
    }

    /// After the datagrams of a turn.
    pub fn sent(&mut self, now: Instant) {
        if self.silent_since.is_none() && self.gauge.in_flight() > 0 {
            self.silent_since = Some(now);
        }
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
        self.silent_since = None;
        self.urgent.clear();
        self.ready.clear();
    }

    fn on_connected(&mut self) {
        if self.is_closed {
            return;
        }
        self.is_connected = true;
        self.deadline = None;
        self.tell(Event::Connected);
        if mem::replace(&mut self.was_open_refused, false) {
            self.tell(Event::StreamsAvailable);
        }
    }

    fn on_lost(&mut self, lost: ConnectionError) {
        if self.is_closed {
            return;
        }
        let (cause, code, reason) = match lost {
            ConnectionError::TransportError(error) => {
                self.is_closing = true;
                let cause = match error.code {
                    TransportErrorCode::INTERNAL_ERROR => Cause::Internal,
                    _ => Cause::Protocol,
                };
                (cause, error.code.into(), error.reason.into_bytes())
            }
            ConnectionError::ConnectionClosed(close) => {
                (Cause::Peer, close.error_code.into(), close.reason.to_vec())
            }
            ConnectionError::ApplicationClosed(close) => {
                (Cause::Peer, close.error_code.into(), close.reason.to_vec())
            }
            ConnectionError::VersionMismatch => (Cause::Protocol, 0, Vec::new()),
            ConnectionError::Reset => (Cause::Reset, 0, b"The peer forgot this connection".into()),
            ConnectionError::TimedOut => (Cause::Timeout, 0, Vec::new()),
            ConnectionError::LocallyClosed => (Cause::Local, 0, Vec::new()),
            ConnectionError::CidsExhausted => (Cause::Internal, 0, Vec::new()),
        };
        self.tell_closed(cause, code, reason);
    }

    fn on_stream_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = self.quic.streams().accept(dir) {
                    self.streams.insert(id, Stream::default());
                    self.note_readable(id);
                }
            }
            StreamEvent::Readable { id } => self.note_readable(id),
            StreamEvent::Writable { id } => self.schedule(id),
            StreamEvent::Finished { id } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.has_sent = true;
                    self.forget_if_over(id);
                }
            }
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
        if self.is_closed {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            if !mem::replace(&mut stream.is_noted, true) {
                self.notes.push_back(Note::Readable(id));
            }
        }
    }

    fn read(&mut self, id: StreamId, told: &mut Vec<(u64, Event)>) {
        match self.streams.get_mut(&id) {
            Some(stream) if !stream.has_received => stream.is_noted = false,
            _ => return,
        }
        let mut chunks = Vec::new();
        let mut end = false;
        let mut code = None;
        let mut receiver = self.quic.recv_stream(id);
        let Ok(mut reader) = receiver.read(true) else {
            return;
        };
        loop {
            match reader.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    chunks.push(chunk.bytes);
                    continue;
                }
                Ok(None) => end = true,
                Err(ReadError::Reset(given)) => code = Some(given.into()),
                Err(ReadError::Blocked) => {}
            }
            break;
        }
        // What has to be sent because of it goes with the next transmit, which follows every poll.
        let _ = reader.finalize();
        let stream = id.into();
        if end || !chunks.is_empty() {
            told.push((
                self.id,
                Event::Data {
                    stream,
                    chunks,
                    end,
                },
            ));
        }
        if let Some(code) = code {
            told.push((self.id, Event::Reset { stream, code }));
        }
        if end || code.is_some() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.has_received = true;
            }
            self.forget_if_over(id);
        }
    }

    /// Reset the sending half; whether there was anything to reset.
    fn abandon(&mut self, id: StreamId, code: u64) -> bool {
        let Some(stream) = self.streams.get_mut(&id).filter(|s| !s.has_sent) else {
            return false;
        };
        stream.has_sent = true;
        stream.queue.clear();
        stream.queued = 0;
        // An error says that nothing is left to reset.
        let _ = self.quic.send_stream(id).reset(varint(code));
        self.forget_if_over(id);
        true
    }

    fn forget_if_over(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get(&id) {
            if stream.has_sent && stream.has_received {
                self.streams.remove(&id);
            }
        }
    }

    fn schedule(&mut self, id: StreamId) {
        if self.is_closed {
            return;
        }
        let rtt = self.quic.rtt();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.is_ready || stream.has_sent || (stream.queue.is_empty() && !stream.finishing) {
            return;
        }
        stream.is_ready = true;
        if stream
            .recent_since
            .is_none_or(|since| self.now > since + rtt)
        {
            stream.recent = 0;
        }
        if stream.is_first || stream.queued + stream.recent <= SPARSE {
            self.urgent.push_back(id);
        } else {
            self.ready.insert((stream.turn, id));
        }
    }

    fn feed(&mut self) {
        if self.urgent.is_empty() && self.ready.is_empty() {
            return;
        }
        let window = self.quic.congestion_state().window();
        // For these only the peer's windows count; each is bounded by its own queue.
        self.quic.set_send_window(u64::MAX);
        while let Some(id) = self.urgent.pop_front() {
            while self.hand_on(id) {}
        }
        self.quic.set_send_window(window.saturating_mul(2) + SLACK);
        while let Some((_, id)) = self.ready.pop_first() {
            if self.hand_on(id) {
                let turn = self.streams.get(&id).map_or(0, |stream| stream.turn);
                self.ready.insert((turn, id));
            }
        }
    }

    /// Give quinn-proto some of a stream's bytes; whether it has more and would take it.
    fn hand_on(&mut self, id: StreamId) -> bool {
        let turn = match self.ready.is_empty() {
            true => LONELY_TURN,
            false => TURN * usize::from(self.quic.current_mtu()),
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        if stream.has_sent {
            stream.is_ready = false;
            return false;
        }
        let mut sender = self.quic.send_stream(id);
        let priority = match stream.is_first {
            true => 2,
            false => i32::from(stream.queued + stream.recent <= SPARSE),
        };
        if priority != stream.priority && sender.set_priority(priority).is_ok() {
            stream.priority = priority;
        }
        let mut blocked = false;
        if !stream.queue.is_empty() {
            match write_turn(&mut sender, &mut stream.queue, turn) {
                Ok(size) => {
                    stream.queued -= size;
                    self.turns += 1;
                    stream.turn = self.turns;
                    if stream.recent == 0 {
                        stream.recent_since = Some(self.now);
                    }
                    stream.recent += size;
                }
                // Writable, or Stopped, will follow.
                Err(WriteError::Blocked | WriteError::Stopped(_)) => blocked = true,
                Err(WriteError::ClosedStream) => {
                    stream.queue.clear();
                    stream.queued = 0;
                    blocked = true;
                }
            }
        }
        if stream.queue.is_empty() && stream.finishing {
            // An error says that the peer wants no more, which is an event of its own.
            let _ = sender.finish();
        }
        let more = !stream.queue.is_empty() && !blocked;
        stream.is_ready = more;
        if stream.is_short && stream.queued * 2 < self.send_buffer {
            stream.is_short = false;
            self.notes
                .push_back(Note::Event(Event::Writable { stream: id.into() }));
        }
        more
    }

    /// quinn-proto doubles its probe time-out without a bound. While it awaits an acknowledgement in silence,
    /// a ping goes out at least this often: its acknowledgement makes everything that was lost move again.
    fn probe_due(&self) -> Option<Instant> {
        if !self.is_connected || self.is_closed || self.gauge.in_flight() == 0 {
            return None;
        }
        let patience = self.probe_timeout.max(self.quic.rtt().saturating_mul(2));
        Some(self.silent_since? + patience)
    }
}

/// Move at most `limit` bytes from the front of `queue`; how many it were.
fn write_turn(
    sender: &mut SendStream<'_>,
    queue: &mut VecDeque<Bytes>,
    limit: usize,
) -> Result<usize, WriteError> {
    if let Some(front) = queue.front_mut().filter(|front| front.len() > limit) {
        let size = sender.write_chunks(&mut [front.slice(..limit)])?.bytes;
        front.advance(size);
        return Ok(size);
    }
    let mut size = 0;
    let mut count = 0;
    while count < queue.len() && size + queue[count].len() <= limit {
        size += queue[count].len();
        count += 1;
    }
    let written = sender.write_chunks(&mut queue.make_contiguous()[..count])?;
    queue.drain(..written.chunks);
    Ok(written.bytes)
}

fn id_of(number: u64) -> StreamId {
    StreamId::from(varint(number))
}

/// A number that changes with every authentic packet that says anything.
fn count(frames: &FrameStats) -> u64 {
    frames.acks
        + frames.ack_frequency
        + frames.crypto
        + frames.connection_close
        + frames.data_blocked
        + u64::from(frames.handshake_done)
        + frames.immediate_ack
        + frames.max_data
        + frames.max_stream_data
        + frames.max_streams_bidi
        + frames.max_streams_uni
        + frames.new_connection_id
        + frames.new_token
        + frames.path_challenge
        + frames.path_response
        + frames.ping
        + frames.reset_stream
        + frames.retire_connection_id
        + frames.stream_data_blocked
        + frames.streams_blocked_bidi
        + frames.streams_blocked_uni
        + frames.stop_sending
        + frames.stream
}
