//! Acknowledgements that quinn-proto delays for too long.
//!
//! quinn-proto sends no acknowledgement, not even alone, while data of its own waits for the congestion window or the
//! pacer. Where both sides send, that takes up to a round trip, and the peer declares packets lost that have arrived.

use std::time::{Duration, Instant};

use quinn_proto::FrameStats;

use crate::clock::duration;

/// An acknowledgement may wait for this fraction of a round trip. That is much less than the half by which a packet may
/// be late before it counts as lost, and more than nothing, because it may cost a datagram beyond the window.
const RTT_DIVISOR: u32 = 8;

/// Datagrams sent past the congestion window while the peer acknowledges nothing: two round trips' worth. Without a
/// bound, a peer that only sends would make this side send, and keep, more and more.
const MAX_UNANSWERED: u32 = 16;

/// quinn-proto's max_ack_delay (RFC 9000 section 18.2) where the peer asked for nothing else, and a timer's grain.
const MAX_ACK_DELAY: Duration = Duration::from_millis(26);

/// Tracks since when an acknowledgement is pending on one connection.
pub struct AckDelay {
    acks_received: u64,
    unanswered: u32,
    eliciting_received: u64,
    acks_sent: u64,
    pending_since: Option<Instant>,
    /// The last datagram past the window had no acknowledgement in it; do not try again before this.
    not_before: Option<Instant>,
    ack_delay: Duration,
}

impl AckDelay {
    /// `ack_delay`: seconds for which an acknowledgement is delayed anyway.
    pub fn new(ack_delay: f64) -> Self {
        Self {
            acks_received: 0,
            unanswered: 0,
            eliciting_received: 0,
            acks_sent: 0,
            pending_since: None,
            not_before: None,
            ack_delay: duration(ack_delay, 0.001),
        }
    }

    /// Note received datagrams. `frames`: all frames received so far.
    pub fn on_received(&mut self, frames: &FrameStats, now: Instant) {
        if frames.acks != self.acks_received {
            self.acks_received = frames.acks;
            self.unanswered = 0;
        }
        let eliciting = ack_eliciting(frames);
        if eliciting != self.eliciting_received {
            self.eliciting_received = eliciting;
            self.pending_since.get_or_insert(now);
        }
    }

    /// Note sent datagrams. `frames`: all frames sent so far. Returns true if no acknowledgement is pending now.
    pub fn on_sent(&mut self, frames: &FrameStats) -> bool {
        if frames.acks != self.acks_sent {
            self.acks_sent = frames.acks;
            self.clear();
        }
        self.pending_since.is_none()
    }

    /// Return true if a datagram may be sent past the window; otherwise nothing is pending any more.
    pub fn may_bypass_window(&mut self) -> bool {
        if self.unanswered >= MAX_UNANSWERED {
            self.clear();
        }
        self.pending_since.is_some()
    }

    /// Note an attempt to send past the window. If no acknowledgement was in it, quinn-proto still delays it.
    pub fn on_bypass(&mut self, frames: &FrameStats, now: Instant) {
        self.unanswered += 1;
        if !self.on_sent(frames) {
            let due = self
                .pending_since
                .map_or(now, |since| since + MAX_ACK_DELAY);
            self.not_before = Some(if due > now { due } else { now + MAX_ACK_DELAY });
        }
    }

    /// Forget the pending acknowledgement.
    pub fn clear(&mut self) {
        self.pending_since = None;
        self.not_before = None;
    }

    /// Return when the pending acknowledgement has waited for too long.
    pub fn due(&self, rtt: Duration) -> Option<Instant> {
        let due = self.pending_since? + (rtt / RTT_DIVISOR).max(2 * self.ack_delay);
        Some(self.not_before.map_or(due, |earliest| earliest.max(due)))
    }

    /// Return true if the pending acknowledgement has waited for too long.
    pub fn is_overdue(&self, now: Instant, rtt: Duration) -> bool {
        self.due(rtt).is_some_and(|due| due <= now)
    }
}

/// Count the ack-eliciting frames (RFC 9000 section 13.2).
pub fn ack_eliciting(frames: &FrameStats) -> u64 {
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
