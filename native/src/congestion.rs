//! A wrapper around quinn-proto's congestion controllers. It tracks the bytes in flight and the bytes that quinn-proto
//! has not sent yet, and lets single packets bypass the congestion window.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use quinn_proto::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

use crate::bbr::Bbr;

/// Overhead of a packet: its header, its tag, and the header of one STREAM frame.
pub const OVERHEAD: u64 = 48;

/// State shared between a connection and the controllers of its paths.
#[derive(Default)]
pub struct SendState {
    in_flight: AtomicU64,
    unsent: AtomicU64,
    mtu_probe: AtomicU64,
    acked_packets: AtomicU64,
    has_backlog: AtomicBool,
    bypass: AtomicBool,
    connected_at: OnceLock<Instant>,
    first_acked_sent: OnceLock<Instant>,
}

impl SendState {
    /// Return the bytes in flight; exact after every acknowledgement.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Return about how many bytes quinn-proto holds that it has to send, for the first time or again.
    pub fn unsent(&self) -> u64 {
        self.unsent.load(Relaxed)
    }

    /// Return the number of ack-eliciting packets that were acknowledged.
    pub fn acked_packets(&self) -> u64 {
        self.acked_packets.load(Relaxed)
    }

    /// Note bytes written to quinn-proto. `has_backlog`: congestion control held back more.
    pub fn on_written(&self, bytes: u64, has_backlog: bool) {
        self.unsent.fetch_add(bytes, Relaxed);
        self.has_backlog.store(has_backlog, Relaxed);
    }

    /// Set the bytes in flight that belong to a path MTU probe; see `mtu_probe`.
    pub fn set_mtu_probe(&self, bytes: u64) {
        self.mtu_probe.store(bytes, Relaxed);
    }

    /// Return the bytes in flight that belong to a path MTU probe.
    pub fn mtu_probe(&self) -> u64 {
        self.mtu_probe.load(Relaxed)
    }

    /// While set, neither the congestion window nor the pacer holds a packet back.
    pub fn set_bypass(&self, bypass: bool) {
        self.bypass.store(bypass, Relaxed);
    }

    /// Note that the handshake is complete: from now on 1-RTT packets are sent.
    pub fn on_connected(&self, now: Instant) {
        self.connected_at.get_or_init(|| now);
    }

    /// Note the acknowledgement of a packet by its send time.
    fn on_acked(&self, sent: Instant) {
        if self.connected_at.get().is_some_and(|since| sent >= *since) {
            self.first_acked_sent.get_or_init(|| sent);
        }
    }

    /// Return true if the peer may have had no keys for a packet sent at that time. Its loss is then no sign of congestion
    /// (RFC 9002 section 7.4): otherwise a packet that overtook the handshake would end slow start.
    fn is_before_keys(&self, sent: Instant) -> bool {
        self.first_acked_sent
            .get()
            .is_none_or(|first| sent <= *first)
    }

    fn reduce_in_flight(&self, bytes: u64) {
        subtract(&self.in_flight, bytes);
    }

    /// Return true if the application had nothing more to send. quinn-proto says so whenever it has sent all that was
    /// written to it.
    fn is_app_limited(&self, has_sent_all: bool) -> bool {
        if has_sent_all {
            self.unsent.store(0, Relaxed);
        }
        has_sent_all && !self.has_backlog.load(Relaxed)
    }
}

fn subtract(count: &AtomicU64, by: u64) {
    count.store(count.load(Relaxed).saturating_sub(by), Relaxed);
}

/// The congestion control algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// See `bbr`.
    Bbr,
}

/// Builds the controllers of one connection, one for each path.
pub struct TrackedFactory {
    /// The algorithm.
    pub congestion: Congestion,
    /// Shared with the connection.
    pub state: Arc<SendState>,
}

impl ControllerFactory for TrackedFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = match self.congestion {
            Congestion::Cubic => Arc::new(CubicConfig::default()).build(now, current_mtu),
            Congestion::Bbr => Box::new(Bbr::new(now, current_mtu)),
        };
        Box::new(TrackedController {
            inner,
            state: self.state.clone(),
        })
    }
}

struct TrackedController {
    inner: Box<dyn Controller>,
    state: Arc<SendState>,
}

impl Controller for TrackedController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.state.in_flight.fetch_add(bytes, Relaxed);
        subtract(&self.state.unsent, bytes.saturating_sub(OVERHEAD));
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.state.reduce_in_flight(bytes);
        self.state.on_acked(sent);
        self.state.acked_packets.fetch_add(1, Relaxed);
        let app_limited = self.state.is_app_limited(app_limited);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let in_flight = in_flight.saturating_sub(self.state.mtu_probe());
        self.state.in_flight.store(in_flight, Relaxed);
        let app_limited = self.state.is_app_limited(app_limited);
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.state.reduce_in_flight(lost_bytes);
        self.state.unsent.fetch_add(lost_bytes, Relaxed);
        if !self.state.is_before_keys(sent) {
            self.inner
                .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.state.bypass.load(Relaxed) {
            // Above 2**32 quinn-proto does not pace.
            return 1 << 40;
        }
        self.inner.window() + self.state.mtu_probe()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            state: self.state.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
