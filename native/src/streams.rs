//! The send queues of streams, and their scheduling.
//!
//! quinn-proto has one send buffer for all streams, so a stream that comes late finds it full. Streams therefore queue
//! here, each up to its own limit, and no more is written to quinn-proto than congestion control can send. Sparse streams
//! go first.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use quinn_proto::{Connection as Quic, ReadError, SendStream, StreamId, WriteError};

use crate::congestion::{SendState, OVERHEAD};

/// A stream with no more bytes than this per round trip is sparse and goes before bulk: it is interactive.
const MAX_SPARSE_BYTES: usize = 1000;
/// Round robin among bulk streams: a turn in datagrams, at least and at most; the time in which each stream should get one;
/// and the turn, in bytes, of a stream that is alone. A larger turn becomes fewer writes at the receiver.
const MIN_TURN: usize = 2;
const MAX_TURN: usize = 64;
const ROUND_ROBIN_TIME: Duration = Duration::from_millis(10);
const SINGLE_STREAM_TURN: usize = 64 * 1024;
/// quinn-proto has a round robin of its own among streams of one priority, a datagram each. To keep the order of writing,
/// each turn of bulk gets a lower priority than the one before; after this many turns that begins anew.
const BULK_PRIORITIES: u64 = 1 << 30;
/// Datagrams that are written to quinn-proto ahead of the pacer, at most: as many as leave in one call.
const MAX_BURST: u64 = 64;
/// quinn-proto's send window is two congestion windows, one for bytes in flight and one for bytes acknowledged behind a
/// gap, and this margin.
const SEND_WINDOW_MARGIN: u64 = 128 * 1024;

/// Send window beyond that for urgent and sparse streams, bounded because a peer may acknowledge nothing.
const URGENT_MARGIN: u64 = 1024 * 1024;

/// The end of the receiving half of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By FIN.
    Clean,
    /// By RESET_STREAM, with its code.
    Reset(u64),
}

#[derive(Default)]
struct Stream {
    queue: VecDeque<Bytes>,
    queued: usize,
    is_finishing: bool,
    wants_writable: bool,
    is_urgent: bool,
    /// True while the stream is in one of the two queues.
    is_scheduled: bool,
    /// The number of its last turn: the stream that has waited longest is next.
    turn: u64,
    /// A pending event says that it is readable.
    is_marked_readable: bool,
    /// Bytes written to quinn-proto since `recent_since`.
    recent_bytes: usize,
    recent_since: Option<Instant>,
    priority: i32,
    send_finished: bool,
    receive_finished: bool,
}

impl Stream {
    fn is_sparse(&self) -> bool {
        self.queued + self.recent_bytes <= MAX_SPARSE_BYTES
    }
}

/// The streams of one connection that have not ended in both directions.
pub struct Streams {
    all: HashMap<StreamId, Stream>,
    urgent: VecDeque<StreamId>,
    ready: BTreeSet<(u64, StreamId)>,
    turns: u64,
    bytes_written: u64,
    send_buffer: usize,
}

impl Streams {
    /// `send_buffer`: bytes that each stream queues.
    pub fn new(send_buffer: usize) -> Self {
        Self {
            all: HashMap::new(),
            urgent: VecDeque::new(),
            ready: BTreeSet::new(),
            turns: 0,
            bytes_written: 0,
            send_buffer,
        }
    }

    /// Return the bytes written to quinn-proto so far.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Return the number of streams.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Add a stream that either side opened.
    pub fn insert(&mut self, id: StreamId) {
        self.all.insert(id, Stream::default());
    }

    // Sending

    /// Return how many of `offered` bytes a stream accepts now.
    pub fn room(&mut self, id: StreamId, offered: usize) -> usize {
        match self.all.get_mut(&id) {
            Some(stream) if !stream.send_finished && !stream.is_finishing => {
                let room = self.send_buffer.saturating_sub(stream.queued).min(offered);
                stream.wants_writable |= room < offered;
                room
            }
            _ => 0,
        }
    }

    /// Queue bytes for which there is room. Returns true if the stream is to be scheduled.
    pub fn write(&mut self, id: StreamId, data: Bytes) -> bool {
        let Some(stream) = self.all.get_mut(&id) else {
            return false;
        };
        stream.queued += data.len();
        stream.queue.push_back(data);
        true
    }

    /// End the sending half. Returns true if the stream is to be scheduled.
    pub fn finish(&mut self, id: StreamId) -> bool {
        match self.all.get_mut(&id) {
            Some(stream) if !stream.send_finished => !mem::replace(&mut stream.is_finishing, true),
            _ => false,
        }
    }

    /// Make a stream urgent. Returns true if it is to be scheduled again.
    pub fn prioritise(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.all.get_mut(&id) else {
            return false;
        };
        stream.is_urgent = true;
        let was_ready = mem::replace(&mut stream.is_scheduled, false);
        if was_ready {
            self.ready.remove(&(stream.turn, id));
            self.urgent.retain(|other| *other != id);
        }
        was_ready
    }

    /// Drop what is queued and end the sending half. Returns false if it had ended already.
    pub fn stop_sending(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.all.get_mut(&id).filter(|s| !s.send_finished) else {
            return false;
        };
        stream.queue.clear();
        stream.queued = 0;
        self.on_send_finished(id);
        true
    }

    /// Note that the sending half has ended: everything was acknowledged, or it was reset.
    pub fn on_send_finished(&mut self, id: StreamId) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.send_finished = true;
            self.forget_if_over(id);
        }
    }

    /// Schedule a stream that has something to send.
    pub fn schedule(&mut self, id: StreamId, now: Instant, rtt: Duration) {
        let Some(stream) = self.all.get_mut(&id) else {
            return;
        };
        if stream.is_scheduled
            || stream.send_finished
            || (stream.queue.is_empty() && !stream.is_finishing)
        {
            return;
        }
        stream.is_scheduled = true;
        if stream.recent_since.is_none_or(|since| now > since + rtt) {
            stream.recent_bytes = 0;
        }
        if stream.is_urgent || stream.is_sparse() {
            self.urgent.push_back(id);
        } else {
            self.ready.insert((stream.turn, id));
        }
    }

    /// Schedule no stream any more.
    pub fn clear_schedule(&mut self) {
        self.urgent.clear();
        self.ready.clear();
    }

    /// Write to quinn-proto what congestion control can send now, and everything urgent. Returns the streams that are
    /// writable again. quinn-proto gets no more than it can send: while its data waits for the congestion window, its
    /// acknowledgements wait as well.
    pub fn feed(&mut self, quic: &mut Quic, send_state: &SendState, now: Instant) -> Vec<StreamId> {
        let mut writable = Vec::new();
        if self.urgent.is_empty() && self.ready.is_empty() {
            send_state.on_written(0, false);
            return writable;
        }
        let before = self.bytes_written;
        let window = quic.congestion_state().window() - send_state.mtu_probe();
        let bulk = window.saturating_mul(2).saturating_add(SEND_WINDOW_MARGIN);
        quic.set_send_window(bulk.saturating_add(URGENT_MARGIN));
        while let Some(id) = self.urgent.pop_front() {
            while self.write_some(id, usize::MAX, quic, now, &mut writable) {}
        }
        quic.set_send_window(bulk);
        let allowed = before + send_budget(window, quic.current_mtu().into(), send_state);
        while self.bytes_written < allowed {
            let Some((_, id)) = self.ready.pop_first() else {
                break;
            };
            let left = usize::try_from(allowed - self.bytes_written).unwrap_or(usize::MAX);
            if self.write_some(id, left, quic, now, &mut writable) {
                let turn = self.all.get(&id).map_or(0, |stream| stream.turn);
                self.ready.insert((turn, id));
            }
        }
        send_state.on_written(self.bytes_written - before, !self.ready.is_empty());
        writable
    }

    /// Return the bytes of one turn when several streams have data.
    fn turn(&self, quic: &Quic) -> usize {
        let mtu = usize::from(quic.current_mtu());
        let trips = (ROUND_ROBIN_TIME.as_secs_f64() / quic.rtt().as_secs_f64().max(1e-6)).min(1.0);
        let bytes_in_time = quic.congestion_state().window() as f64 * trips;
        let share = bytes_in_time / (self.ready.len() + 1) as f64;
        (share as usize).clamp(MIN_TURN * mtu, MAX_TURN * mtu)
    }

    /// Write some bytes of a stream to quinn-proto, at most `limit` if it is alone. Returns true if it has more.
    fn write_some(
        &mut self,
        id: StreamId,
        limit: usize,
        quic: &mut Quic,
        now: Instant,
        writable: &mut Vec<StreamId>,
    ) -> bool {
        let turn = match self.ready.is_empty() {
            true => SINGLE_STREAM_TURN.min(limit),
            // Not cut to the limit: that would put the next stream ahead by the missing bytes.
            false => self.turn(quic),
        };
        let Some(stream) = self.all.get_mut(&id) else {
            return false;
        };
        if stream.send_finished {
            stream.is_scheduled = false;
            return false;
        }
        let mut sender = quic.send_stream(id);
        let priority = match (stream.is_urgent, stream.is_sparse()) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => -i32::try_from(self.turns % BULK_PRIORITIES).unwrap_or(0),
        };
        if priority != stream.priority && sender.set_priority(priority).is_ok() {
            stream.priority = priority;
        }
        let mut blocked = false;
        if !stream.queue.is_empty() {
            match write_turn(&mut sender, &mut stream.queue, turn) {
                Ok(size) => {
                    stream.queued -= size;
                    self.bytes_written += size as u64;
                    self.turns += 1;
                    stream.turn = self.turns;
                    if stream.recent_bytes == 0 {
                        stream.recent_since = Some(now);
                    }
                    stream.recent_bytes += size;
                }
                // A Writable or Stopped event follows.
                Err(WriteError::Blocked | WriteError::Stopped(_)) => blocked = true,
                Err(WriteError::ClosedStream) => {
                    stream.queue.clear();
                    stream.queued = 0;
                    blocked = true;
                }
            }
        }
        if stream.queue.is_empty() && stream.is_finishing {
            // An error means that the peer sent STOP_SENDING, which is an event of its own.
            let _ = sender.finish();
        }
        stream.is_scheduled = !stream.queue.is_empty() && !blocked;
        if stream.wants_writable && stream.queued * 2 < self.send_buffer {
            stream.wants_writable = false;
            writable.push(id);
        }
        stream.is_scheduled
    }

    // Receiving

    /// Mark a stream as readable. Returns false if it was marked already.
    pub fn mark_readable(&mut self, id: StreamId) -> bool {
        self.all
            .get_mut(&id)
            .is_some_and(|stream| !mem::replace(&mut stream.is_marked_readable, true))
    }

    /// Read what has arrived, and the end if it has. Returns None if the receiving half has ended.
    pub fn read(&mut self, id: StreamId, quic: &mut Quic) -> Option<(Vec<Bytes>, Option<End>)> {
        let stream = self.all.get_mut(&id).filter(|s| !s.receive_finished)?;
        stream.is_marked_readable = false;
        let mut chunks = Vec::new();
        let mut receiver = quic.recv_stream(id);
        let mut reader = receiver.read(true).ok()?;
        let end = loop {
            match reader.next(usize::MAX) {
                Ok(Some(chunk)) => chunks.push(chunk.bytes),
                Ok(None) => break Some(End::Clean),
                Err(ReadError::Reset(code)) => break Some(End::Reset(code.into())),
                Err(ReadError::Blocked) => break None,
            }
        };
        // Window updates leave with the next transmit, which follows every poll.
        let _ = reader.finalize();
        if end.is_some() {
            self.on_receive_finished(id);
        }
        Some((chunks, end))
    }

    /// Note that nothing more is read. Returns false if that was noted already.
    pub fn on_receive_finished(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.all.get_mut(&id) else {
            return false;
        };
        let was_open = !mem::replace(&mut stream.receive_finished, true);
        self.forget_if_over(id);
        was_open
    }

    fn forget_if_over(&mut self, id: StreamId) {
        if let Some(stream) = self.all.get(&id) {
            if stream.send_finished && stream.receive_finished {
                self.all.remove(&id);
            }
        }
    }
}

/// Return the bytes that quinn-proto would send at once, beyond those it holds: it fills datagrams as long as another one
/// stays below the window.
fn send_budget(window: u64, mtu: u64, send_state: &SendState) -> u64 {
    let room = window
        .saturating_sub(send_state.in_flight() + 1)
        .min(MAX_BURST * mtu);
    ((room / mtu) * (mtu - OVERHEAD)).saturating_sub(send_state.unsent())
}

/// Write at most `limit` bytes from the front of `queue`. Returns how many.
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
