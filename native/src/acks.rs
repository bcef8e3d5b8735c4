//! Whether an acknowledgement is kept back for too long.
//!
//! quinn-proto sends no acknowledgement, not even alone, while data of its own waits for the congestion window or
//! the pacer. Where both sides send, that takes up to a round trip, and the other side takes for lost what arrived.

use std::time::{Duration, Instant};

use quinn_proto::FrameStats;

use crate::time::span;

/// The share of a round trip that an acknowledgement may wait. Much less than the half by which a packet may be
/// late before it counts as lost; more than nothing, because it may cost a datagram beyond the window.
const SHARE: u32 = 8;

/// Datagrams that go past the window for a peer that acknowledges nothing in return: two round trips' worth. It would
/// else be sent, and kept for it, more and more.
const MAX_UNANSWERED: u32 = 16;

/// How long quinn-proto keeps an acknowledgement back for company where the peer asked for nothing else
/// (max_ack_delay, RFC 9000 section 18.2), and a timer's grain.
const COMPANY: Duration = Duration::from_millis(26);

/// See the module.
pub struct Acks {
    answers: u64,
    unanswered: u32,
    received: u64,
    sent: u64,
    owed_since: Option<Instant>,
    /// The last try brought none to light.
    not_before: Option<Instant>,
    usual: Duration,
}

impl Acks {
    /// `delay`: seconds that an acknowledgement waits for company anyway.
    pub fn new(delay: f64) -> Self {
        Self {
            answers: 0,
            unanswered: 0,
            received: 0,
            sent: 0,
            owed_since: None,
            not_before: None,
            usual: span(delay, 0.001),
        }
    }

    /// Datagrams were taken in, these frames in all.
    pub fn take(&mut self, frames: &FrameStats, now: Instant) {
        if frames.acks != self.answers {
            self.answers = frames.acks;
            self.unanswered = 0;
        }
        let received = eliciting(frames);
        if received != self.received {
            self.received = received;
            self.owed_since.get_or_insert(now);
        }
    }

    /// Datagrams were sent, these frames in all; whether nothing is owed now.
    pub fn sent(&mut self, frames: &FrameStats) -> bool {
        if frames.acks != self.sent {
            self.sent = frames.acks;
            self.forget();
        }
        self.owed_since.is_none()
    }

    /// Whether one may go past the window; if not, nothing is owed any more.
    pub fn may_pass(&mut self) -> bool {
        if self.unanswered >= MAX_UNANSWERED {
            self.forget();
        }
        self.owed_since.is_some()
    }

    /// One may have gone past the window. Where it had none, quinn-proto still waits for company.
    pub fn passed(&mut self, frames: &FrameStats, now: Instant) {
        self.unanswered += 1;
        if !self.sent(frames) {
            let ripe = self.owed_since.map_or(now, |since| since + COMPANY);
            self.not_before = Some(if ripe > now { ripe } else { now + COMPANY });
        }
    }

    /// Nothing is owed.
    pub fn forget(&mut self) {
        self.owed_since = None;
        self.not_before = None;
    }

    /// When it has waited too long.
    pub fn due(&self, rtt: Duration) -> Option<Instant> {
        let due = self.owed_since? + (rtt / SHARE).max(2 * self.usual);
        Some(self.not_before.map_or(due, |ripe| ripe.max(due)))
    }

    /// Whether it has.
    pub fn is_overdue(&self, now: Instant, rtt: Duration) -> bool {
        self.due(rtt).is_some_and(|due| due <= now)
    }
}

/// A number that grows with every frame that asks for an acknowledgement.
pub fn eliciting(frames: &FrameStats) -> u64 {
    frames.ack_frequency
        + frames.crypto
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
