//! The bytes that wait for quinn-proto, and whose turn it is.
//!
//! quinn-proto buffers what is written up to one limit for all streams, so a stream that is late would find
//! the buffer full. Streams therefore queue here, each up to its own limit, and no more than congestion
//! control can use is handed on; what has little to say goes first.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use quinn_proto::{Connection as Quic, ReadError, SendStream, StreamId, WriteError};

use crate::congestion::{Gauge, OVERHEAD};

/// A stream with fewer bytes than this in a round trip goes before bulk: it is somebody who types.
const SPARSE: usize = 1000;
/// Datagrams' worth of bytes that a stream hands to quinn-proto at least before the next one has its turn, and at most,
/// where all of them still have one within so much time: the larger a turn, the fewer writes its bytes become on the
/// other side. And bytes for one that is alone.
const SHORT_TURN: usize = 2;
const LONG_TURN: usize = 64;
const CYCLE: Duration = Duration::from_millis(10);
const LONELY_TURN: usize = 64 * 1024;
/// quinn-proto takes turns as well among streams of one priority, a datagram each. So that what was handed on first goes
/// first, each turn of bulk has a lower one than the one before; once in so many turns that begins anew.
const BULK_PRIORITIES: u64 = 1 << 30;
/// Datagrams that quinn-proto is ahead of the pacer, at most: as many as leave in one call. It takes turns among the streams
/// that it has bytes of, a datagram each, so these should be few.
const BURST: u64 = 64;
/// quinn-proto keeps what is not acknowledged: at most two congestion windows, one for what is in flight and one
/// for what is acknowledged behind a gap, and this.
const SLACK: u64 = 128 * 1024;

/// Bytes that quinn-proto holds beyond those for streams that go first: a peer that acknowledges nothing would
/// else be given a little every round trip, for ever.
const HURRY: u64 = 1024 * 1024;

/// How the receiving half of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With everything that was sent.
    Clean,
    /// The peer gave it up, with a code.
    Reset(u64),
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

impl Stream {
    fn is_sparse(&self) -> bool {
        self.queued + self.recent <= SPARSE
    }
}

/// The streams of one connection that have not ended in both directions.
pub struct Streams {
    all: HashMap<StreamId, Stream>,
    urgent: VecDeque<StreamId>,
    ready: BTreeSet<(u64, StreamId)>,
    turns: u64,
    handed_on: u64,
    send_buffer: usize,
}

impl Streams {
    /// Each takes `send_buffer` bytes.
    pub fn new(send_buffer: usize) -> Self {
        Self {
            all: HashMap::new(),
            urgent: VecDeque::new(),
            ready: BTreeSet::new(),
            turns: 0,
            handed_on: 0,
            send_buffer,
        }
    }

    /// Bytes that quinn-proto was given so far.
    pub fn handed_on(&self) -> u64 {
        self.handed_on
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// One was opened, by either side.
    pub fn insert(&mut self, id: StreamId) {
        self.all.insert(id, Stream::default());
    }

    // Sending

    /// How many of `offered` bytes it takes now.
    pub fn room(&mut self, id: StreamId, offered: usize) -> usize {
        match self.all.get_mut(&id) {
            Some(stream) if !stream.has_sent && !stream.finishing => {
                let room = self.send_buffer.saturating_sub(stream.queued).min(offered);
                stream.is_short |= room < offered;
                room
            }
            _ => 0,
        }
    }

    /// Queue bytes for which there is room; whether to schedule it.
    pub fn write(&mut self, id: StreamId, data: Bytes) -> bool {
        let Some(stream) = self.all.get_mut(&id) else {
            return false;
        };
        stream.queued += data.len();
        stream.queue.push_back(data);
        true
    }

    /// No more bytes follow; whether to schedule it.
    pub fn finish(&mut self, id: StreamId) -> bool {
        match self.all.get_mut(&id) {
            Some(stream) if !stream.has_sent => !mem::replace(&mut stream.finishing, true),
            _ => false,
        }
    }

    /// It goes first from now on; whether to schedule it again.
    pub fn prioritise(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.all.get_mut(&id) else {
            return false;
        };
        stream.is_first = true;
        let was_ready = mem::replace(&mut stream.is_ready, false);
        if was_ready {
            self.ready.remove(&(stream.turn, id));
            self.urgent.retain(|other| *other != id);
        }
        was_ready
    }

    /// Its sending half is over, what is queued is dropped; whether it was not before.
    pub fn give_up(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.all.get_mut(&id).filter(|s| !s.has_sent) else {
            return false;
        };
        stream.queue.clear();
        stream.queued = 0;
        self.has_sent(id);
        true
    }

    /// All of it was sent and acknowledged, or given up.
    pub fn has_sent(&mut self, id: StreamId) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.has_sent = true;
            self.forget_if_over(id);
        }
    }

    /// It has something to say, and quinn-proto may take it.
    pub fn schedule(&mut self, id: StreamId, now: Instant, rtt: Duration) {
        let Some(stream) = self.all.get_mut(&id) else {
            return;
        };
        if stream.is_ready || stream.has_sent || (stream.queue.is_empty() && !stream.finishing) {
            return;
        }
        stream.is_ready = true;
        if stream.recent_since.is_none_or(|since| now > since + rtt) {
            stream.recent = 0;
        }
        if stream.is_first || stream.is_sparse() {
            self.urgent.push_back(id);
        } else {
            self.ready.insert((stream.turn, id));
        }
    }

    /// Nobody has a turn any more.
    pub fn silence(&mut self) {
        self.urgent.clear();
        self.ready.clear();
    }

    /// Hand on what congestion control lets go now, and whatever goes first; the streams that were full and take
    /// bytes again. quinn-proto is given no more than it can send, because while something waits in there for the
    /// congestion window, its acknowledgements wait as well.
    pub fn feed(&mut self, quic: &mut Quic, gauge: &Gauge, now: Instant) -> Vec<StreamId> {
        let mut writable = Vec::new();
        if self.urgent.is_empty() && self.ready.is_empty() {
            gauge.handed_on(0, false);
            return writable;
        }
        let before = self.handed_on;
        let window = quic.congestion_state().window() - gauge.probe();
        let bulk = window.saturating_mul(2).saturating_add(SLACK);
        quic.set_send_window(bulk.saturating_add(HURRY));
        while let Some(id) = self.urgent.pop_front() {
            while self.hand_on(id, usize::MAX, quic, now, &mut writable) {}
        }
        quic.set_send_window(bulk);
        let allowed = before + allowance(window, quic.current_mtu().into(), gauge);
        while self.handed_on < allowed {
            let Some((_, id)) = self.ready.pop_first() else {
                break;
            };
            let left = usize::try_from(allowed - self.handed_on).unwrap_or(usize::MAX);
            if self.hand_on(id, left, quic, now, &mut writable) {
                let turn = self.all.get(&id).map_or(0, |stream| stream.turn);
                self.ready.insert((turn, id));
            }
        }
        gauge.handed_on(self.handed_on - before, !self.ready.is_empty());
        writable
    }

    /// Bytes of one turn, where several streams have something to say.
    fn turn(&self, quic: &Quic) -> usize {
        let mtu = usize::from(quic.current_mtu());
        let trips = (CYCLE.as_secs_f64() / quic.rtt().as_secs_f64().max(1e-6)).min(1.0);
        let cycle = quic.congestion_state().window() as f64 * trips;
        let share = cycle / (self.ready.len() + 1) as f64;
        (share as usize).clamp(SHORT_TURN * mtu, LONG_TURN * mtu)
    }

    /// Give quinn-proto some of a stream's bytes, when it is alone at most `limit`; whether it has more and would take it.
    fn hand_on(
        &mut self,
        id: StreamId,
        limit: usize,
        quic: &mut Quic,
        now: Instant,
        writable: &mut Vec<StreamId>,
    ) -> bool {
        let turn = match self.ready.is_empty() {
            true => LONELY_TURN.min(limit),
            // Not cut short for the limit: whoever is next would be ahead by what is missing.
            false => self.turn(quic),
        };
        let Some(stream) = self.all.get_mut(&id) else {
            return false;
        };
        if stream.has_sent {
            stream.is_ready = false;
            return false;
        }
        let mut sender = quic.send_stream(id);
        let priority = match (stream.is_first, stream.is_sparse()) {
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
                    self.handed_on += size as u64;
                    self.turns += 1;
                    stream.turn = self.turns;
                    if stream.recent == 0 {
                        stream.recent_since = Some(now);
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
        stream.is_ready = !stream.queue.is_empty() && !blocked;
        if stream.is_short && stream.queued * 2 < self.send_buffer {
            stream.is_short = false;
            writable.push(id);
        }
        stream.is_ready
    }

    // Receiving

    /// There is something to read; whether that was not noted yet.
    pub fn note(&mut self, id: StreamId) -> bool {
        self.all
            .get_mut(&id)
            .is_some_and(|stream| !mem::replace(&mut stream.is_noted, true))
    }

    /// What can be read now, and whether it ended with that; None when nobody wants to know.
    pub fn read(&mut self, id: StreamId, quic: &mut Quic) -> Option<(Vec<Bytes>, Option<End>)> {
        let stream = self.all.get_mut(&id).filter(|s| !s.has_received)?;
        stream.is_noted = false;
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
        // What has to be sent because of it goes with the next transmit, which follows every poll.
        let _ = reader.finalize();
        if end.is_some() {
            self.has_received(id);
        }
        Some((chunks, end))
    }

    /// Nothing more is read from it; whether that was not so before.
    pub fn has_received(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.all.get_mut(&id) else {
            return false;
        };
        let was_open = !mem::replace(&mut stream.has_received, true);
        self.forget_if_over(id);
        was_open
    }

    fn forget_if_over(&mut self, id: StreamId) {
        if let Some(stream) = self.all.get(&id) {
            if stream.has_sent && stream.has_received {
                self.all.remove(&id);
            }
        }
    }
}

/// Bytes that quinn-proto would send at once, beyond those it has: it fills datagrams as long as another one stays
/// below the window.
fn allowance(window: u64, mtu: u64, gauge: &Gauge) -> u64 {
    let room = window
        .saturating_sub(gauge.in_flight() + 1)
        .min(BURST * mtu);
    ((room / mtu) * (mtu - OVERHEAD)).saturating_sub(gauge.unsent())
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
