//! A window over quinn-proto's congestion controllers: how much is in flight, how much of what quinn-proto was
//! given it has not sent yet, and a door for what must not wait.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use quinn_proto::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

use crate::bbr::Bbr;

/// Bytes of a packet that are no stream's: header, tag, and the header of one STREAM frame.
pub const OVERHEAD: u64 = 48;

/// What is shared between a connection and the controllers of its paths.
#[derive(Default)]
pub struct Gauge {
    in_flight: AtomicU64,
    unsent: AtomicU64,
    probe: AtomicU64,
    acked: AtomicU64,
    is_full: AtomicBool,
    is_open: AtomicBool,
    connected: OnceLock<Instant>,
    first_acked: OnceLock<Instant>,
}

impl Gauge {
    /// Bytes that were sent and neither acknowledged nor given up; exact after every acknowledgement.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// About how many bytes quinn-proto has that it has not sent, or has to send again.
    pub fn unsent(&self) -> u64 {
        self.unsent.load(Relaxed)
    }

    /// How many packets that ask for it were acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    /// Bytes were handed on; `is_full`: there would have been more, had congestion control allowed it.
    pub fn handed_on(&self, bytes: u64, is_full: bool) {
        self.unsent.fetch_add(bytes, Relaxed);
        self.is_full.store(is_full, Relaxed);
    }

    /// So many of the bytes in flight are a datagram that finds out how much fits; see `probing`.
    pub fn set_probe(&self, bytes: u64) {
        self.probe.store(bytes, Relaxed);
    }

    /// See [`Gauge::set_probe`].
    pub fn probe(&self) -> u64 {
        self.probe.load(Relaxed)
    }

    /// While open, no congestion window and no pacing hold a packet back.
    pub fn set_open(&self, open: bool) {
        self.is_open.store(open, Relaxed);
    }

    /// The handshake is complete here: from now on 1-RTT packets are sent.
    pub fn connect(&self, now: Instant) {
        self.connected.get_or_init(|| now);
    }

    /// A packet arrived that was sent then.
    fn arrived(&self, sent: Instant) {
        if self.connected.get().is_some_and(|since| sent >= *since) {
            self.first_acked.get_or_init(|| sent);
        }
    }

    /// Whether a packet that was sent then may have come before the peer had keys for it, so that its loss says nothing
    /// of the path (RFC 9002 section 7.4): overtaking its handshake would else cost a connection its slow start.
    fn is_excused(&self, sent: Instant) -> bool {
        self.first_acked.get().is_none_or(|first| sent <= *first)
    }

    fn less(&self, bytes: u64) {
        lessen(&self.in_flight, bytes);
    }

    /// Whether an acknowledgement came while the application had nothing more to send. quinn-proto thinks so
    /// whenever it has sent all that it was given.
    fn is_idle(&self, has_sent_all: bool) -> bool {
        if has_sent_all {
            self.unsent.store(0, Relaxed);
        }
        has_sent_all && !self.is_full.load(Relaxed)
    }
}

fn lessen(count: &AtomicU64, by: u64) {
    count.store(count.load(Relaxed).saturating_sub(by), Relaxed);
}

/// The algorithms that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// A model of the path; see `bbr`.
    Bbr,
}

/// Makes the controllers of one connection, one for each path.
pub struct Gauged {
    /// The algorithm.
    pub congestion: Congestion,
    /// Shared with the connection.
    pub gauge: Arc<Gauge>,
}

impl ControllerFactory for Gauged {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = match self.congestion {
            Congestion::Cubic => Arc::new(CubicConfig::default()).build(now, current_mtu),
            Congestion::Bbr => Box::new(Bbr::new(now, current_mtu)),
        };
        Box::new(Gauging {
            inner,
            gauge: self.gauge.clone(),
        })
    }
}

struct Gauging {
    inner: Box<dyn Controller>,
    gauge: Arc<Gauge>,
}

impl Controller for Gauging {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.gauge.in_flight.fetch_add(bytes, Relaxed);
        lessen(&self.gauge.unsent, bytes.saturating_sub(OVERHEAD));
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
        self.gauge.less(bytes);
        self.gauge.arrived(sent);
        self.gauge.acked.fetch_add(1, Relaxed);
        let app_limited = self.gauge.is_idle(app_limited);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let in_flight = in_flight.saturating_sub(self.gauge.probe());
        self.gauge.in_flight.store(in_flight, Relaxed);
        let app_limited = self.gauge.is_idle(app_limited);
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
        self.gauge.less(lost_bytes);
        self.gauge.unsent.fetch_add(lost_bytes, Relaxed);
        if !self.gauge.is_excused(sent) {
            self.inner
                .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.gauge.is_open.load(Relaxed) {
            // Above 2**32 quinn-proto does not pace either.
            return 1 << 40;
        }
        self.inner.window() + self.gauge.probe()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            gauge: self.gauge.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
