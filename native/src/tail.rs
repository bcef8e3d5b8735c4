//! The loss of the last packet is noticed by what is acknowledged behind it, so something small is sent behind it.
//!
//! A keystroke is a last packet. Without this, its loss waits for a probe time-out, which is more than a round trip,
//! or for the next keystroke. The idea is that of TCP's tail loss probe (RFC 8985 section 7), earlier, because a ping
//! carries nothing that would be sent twice.

use std::time::{Duration, Instant};

use quinn_proto::FrameStats;

use crate::acks::eliciting;

/// How long after the last packet, as a divisor of the round trip: a packet is believed lost after nine eighths of
/// one (RFC 9002 section 6.1.2), which is when the acknowledgement of this one comes.
const SHARE: u32 = 8;
/// Paths on which the probe time-out is soon enough are not bothered with more packets.
const LEAST_ROUND_TRIP: Duration = Duration::from_millis(40);
/// Datagrams in flight, at most: the end of bulk is told apart by the probe time-out, and paid for by nobody.
const SMALL: u64 = 4;

/// See the module.
#[derive(Default)]
pub struct Tail {
    sent: u64,
    due: Option<Instant>,
    is_asking: bool,
}

impl Tail {
    /// Datagrams were sent, these frames in all.
    pub fn sent(
        &mut self,
        frames: &FrameStats,
        in_flight: u64,
        mtu: u16,
        rtt: Duration,
        now: Instant,
    ) {
        let sent = eliciting(frames);
        if sent == self.sent {
            return;
        }
        self.sent = sent;
        let is_small = in_flight <= SMALL * u64::from(mtu);
        let is_wanted = is_small && rtt >= LEAST_ROUND_TRIP && !self.is_asking;
        self.is_asking = false;
        self.due = is_wanted.then(|| now + rtt / SHARE);
    }

    /// When something has to follow, if anything is still in flight then.
    pub fn due(&self, in_flight: u64) -> Option<Instant> {
        self.due.filter(|_| in_flight > 0)
    }

    /// It is about to be sent.
    pub fn ask(&mut self) {
        self.due = None;
        self.is_asking = true;
    }

    /// Nothing is sent any more.
    pub fn end(&mut self) {
        self.due = None;
    }
}
