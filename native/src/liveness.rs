//! Liveness: the time of the last received packet, and the time of the next PING.

use std::time::{Duration, Instant};

use quinn_proto::FrameStats;

use crate::ack_delay::ack_eliciting;
use crate::clock::duration;

/// The liveness of one peer.
pub struct Liveness {
    last_heard: Instant,
    frame_count: u64,
    /// Since when an acknowledgement is awaited and nothing was received.
    silent_since: Option<Instant>,
    max_probe_timeout: Duration,
}

impl Liveness {
    /// `max_probe_timeout`: seconds of silence after which a PING is sent.
    pub fn new(max_probe_timeout: f64, now: Instant) -> Self {
        Self {
            last_heard: now,
            frame_count: 0,
            silent_since: None,
            max_probe_timeout: duration(max_probe_timeout, 0.01),
        }
    }

    /// Return when the last authentic packet was received.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Note received datagrams. They count only if one of them was authentic, which shows in the frame counters.
    pub fn on_received(&mut self, stats: &FrameStats, in_flight: u64, now: Instant) {
        let frame_count = count(stats);
        if frame_count != self.frame_count {
            self.frame_count = frame_count;
            self.last_heard = now;
            self.silent_since = (in_flight > 0).then_some(now);
        }
    }

    /// Note sent datagrams.
    pub fn on_sent(&mut self, in_flight: u64, now: Instant) {
        if self.silent_since.is_none() && in_flight > 0 {
            self.silent_since = Some(now);
        }
    }

    /// Note that a PING is sent now.
    pub fn on_ping(&mut self, now: Instant) {
        self.silent_since = Some(now);
    }

    /// Await nothing any more.
    pub fn cancel(&mut self) {
        self.silent_since = None;
    }

    /// Return when to send a PING. quinn-proto doubles its probe timeout without a bound. While an acknowledgement is
    /// awaited in silence, a PING goes out at least this often: its acknowledgement reveals what was lost.
    pub fn due(&self, in_flight: u64, rtt: Duration) -> Option<Instant> {
        if in_flight == 0 {
            return None;
        }
        let timeout = self.max_probe_timeout.max(rtt.saturating_mul(2));
        Some(self.silent_since? + timeout)
    }
}

/// Count the frames that only an authentic packet can bring.
fn count(frames: &FrameStats) -> u64 {
    ack_eliciting(frames) + frames.acks + frames.connection_close
}
