//! Tail loss probe: a PING behind the last packet, so that the loss of that packet is noticed early.
//!
//! A loss is detected when something sent later is acknowledged. A keystroke is a last packet: without a probe its loss
//! waits for the probe timeout, which is more than a round trip, or for the next keystroke. This is TCP's tail loss
//! probe (RFC 8985 section 7), sent earlier, because a PING repeats no data.

use std::time::{Duration, Instant};

use quinn_proto::FrameStats;

use crate::ack_delay::ack_eliciting;

/// The probe follows the last packet after this fraction of a round trip: a packet counts as lost after nine eighths of
/// one (RFC 9002 section 6.1.2), which is when the acknowledgement of this probe arrives.
const RTT_DIVISOR: u32 = 8;
/// On shorter paths the probe timeout is early enough, and no probe is sent.
const MIN_RTT: Duration = Duration::from_millis(40);
/// Datagrams in flight, at most: the end of a bulk transfer is left to the probe timeout.
const MAX_IN_FLIGHT: u64 = 4;

/// The timer of the probe.
#[derive(Default)]
pub struct TailLossProbe {
    eliciting_sent: u64,
    due: Option<Instant>,
    is_probe: bool,
}

impl TailLossProbe {
    /// Note sent datagrams, and set or cancel the timer. `frames`: all frames sent so far.
    pub fn on_sent(
        &mut self,
        frames: &FrameStats,
        in_flight: u64,
        mtu: u16,
        rtt: Duration,
        now: Instant,
    ) {
        let eliciting = ack_eliciting(frames);
        if eliciting == self.eliciting_sent {
            return;
        }
        self.eliciting_sent = eliciting;
        let is_small = in_flight <= MAX_IN_FLIGHT * u64::from(mtu);
        let is_wanted = is_small && rtt >= MIN_RTT && !self.is_probe;
        self.is_probe = false;
        self.due = is_wanted.then(|| now + rtt / RTT_DIVISOR);
    }

    /// Return when a probe is due, if anything is still in flight then.
    pub fn due(&self, in_flight: u64) -> Option<Instant> {
        self.due.filter(|_| in_flight > 0)
    }

    /// Note that the next packet is the probe; no other probe follows it.
    pub fn on_probe(&mut self) {
        self.due = None;
        self.is_probe = true;
    }

    /// Cancel the timer.
    pub fn cancel(&mut self) {
        self.due = None;
    }
}
