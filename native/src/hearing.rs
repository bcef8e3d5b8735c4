//! When the peer was last heard, and when to ask it for an answer.

use std::time::{Duration, Instant};

use quinn_proto::FrameStats;

use crate::acks::eliciting;
use crate::time::span;

/// See the module.
pub struct Hearing {
    last: Instant,
    frames: u64,
    /// Since when an acknowledgement is awaited and nothing was heard.
    silent_since: Option<Instant>,
    patience: Duration,
}

impl Hearing {
    /// With `max_probe_timeout` seconds of patience.
    pub fn new(max_probe_timeout: f64, now: Instant) -> Self {
        Self {
            last: now,
            frames: 0,
            silent_since: None,
            patience: span(max_probe_timeout, 0.01),
        }
    }

    /// When an authentic packet came last.
    pub fn last(&self) -> Instant {
        self.last
    }

    /// Datagrams were taken in: see whether any of them was authentic.
    pub fn take(&mut self, stats: &FrameStats, in_flight: u64, now: Instant) {
        let frames = count(stats);
        if frames != self.frames {
            self.frames = frames;
            self.last = now;
            self.silent_since = (in_flight > 0).then_some(now);
        }
    }

    /// Datagrams were sent.
    pub fn sent(&mut self, in_flight: u64, now: Instant) {
        if self.silent_since.is_none() && in_flight > 0 {
            self.silent_since = Some(now);
        }
    }

    /// The peer is asked now.
    pub fn asked(&mut self, now: Instant) {
        self.silent_since = Some(now);
    }

    /// Nothing is awaited any more.
    pub fn end(&mut self) {
        self.silent_since = None;
    }

    /// quinn-proto doubles its probe time-out without a bound. While it awaits an acknowledgement in silence,
    /// a ping goes out at least this often: its acknowledgement makes everything that was lost move again.
    pub fn due(&self, in_flight: u64, rtt: Duration) -> Option<Instant> {
        if in_flight == 0 {
            return None;
        }
        let patience = self.patience.max(rtt.saturating_mul(2));
        Some(self.silent_since? + patience)
    }
}

/// A number that changes with every authentic packet that says anything.
fn count(frames: &FrameStats) -> u64 {
    eliciting(frames) + frames.acks + frames.connection_close
}
