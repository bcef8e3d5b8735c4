//! Path MTU probes take nothing of the congestion window.
//!
//! quinn-proto counts a probe as in flight like any other datagram (RFC 9000 section 14.4 leaves that open). A probe may
//! be larger than the whole window, and most probes are lost. Nothing else would then be sent until the loss is noticed,
//! which takes a probe timeout, because nothing is sent behind it.

use quinn_proto::PathStats;

/// The one probe that is in flight, if any.
#[derive(Default)]
pub struct MtuProbe {
    sent: u64,
    lost: u64,
    mtu: u16,
}

impl MtuProbe {
    /// Note a sent datagram of `size` bytes. Returns its size if it was a probe.
    pub fn on_sent(&mut self, path: &PathStats, size: usize) -> Option<u64> {
        let is_probe = path.sent_plpmtud_probes != self.sent;
        self.sent = path.sent_plpmtud_probes;
        is_probe.then_some(size as u64)
    }

    /// Return true if the probe was lost or acknowledged since the last call. An acknowledged one raises the MTU.
    pub fn has_finished(&mut self, path: &PathStats) -> bool {
        let has_finished = (path.lost_plpmtud_probes, path.current_mtu) != (self.lost, self.mtu);
        (self.lost, self.mtu) = (path.lost_plpmtud_probes, path.current_mtu);
        has_finished
    }
}
