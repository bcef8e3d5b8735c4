//! What a datagram that finds out how much fits takes of the congestion window: nothing.
//!
//! quinn-proto counts it as in flight like any other (RFC 9000 section 14.4 leaves that open). It may be larger than the
//! whole window, and most of them are lost: nothing else would then be sent until its loss is noticed, which takes a
//! probe time-out, because nothing is sent behind it.

use quinn_proto::PathStats;

/// The one probe that is under way, if any.
#[derive(Default)]
pub struct Probing {
    sent: u64,
    lost: u64,
    mtu: u16,
}

impl Probing {
    /// A datagram of `size` bytes was sent: its size, if it was a probe.
    pub fn sent(&mut self, path: &PathStats, size: usize) -> Option<u64> {
        let is_probe = path.sent_plpmtud_probes != self.sent;
        self.sent = path.sent_plpmtud_probes;
        is_probe.then_some(size as u64)
    }

    /// Whether it has come to an end since the last time: lost, or acknowledged, which always brings larger datagrams.
    pub fn has_ended(&mut self, path: &PathStats) -> bool {
        let has_ended = (path.lost_plpmtud_probes, path.current_mtu) != (self.lost, self.mtu);
        (self.lost, self.mtu) = (path.lost_plpmtud_probes, path.current_mtu);
        has_ended
    }
}
