//! A window over quinn-proto's congestion controllers: how much is in flight, and a door for probes.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::congestion::{BbrConfig, Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

/// What is shared between a connection and the controllers of its paths.
#[derive(Default)]
pub struct Gauge {
    in_flight: AtomicU64,
    is_open: AtomicBool,
}

impl Gauge {
    /// Bytes that were sent and neither acknowledged nor given up; exact after every acknowledgement.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// While open, no congestion window and no pacing hold a packet back.
    pub fn set_open(&self, open: bool) {
        self.is_open.store(open, Relaxed);
    }

    fn less(&self, bytes: u64) {
        let before = self.in_flight.load(Relaxed);
        self.in_flight.store(before.saturating_sub(bytes), Relaxed);
    }
}

/// The algorithms that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// Version 1 of BBR.
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
            Congestion::Bbr => Arc::new(BbrConfig::default()).build(now, current_mtu),
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
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.gauge.in_flight.store(in_flight, Relaxed);
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
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.gauge.is_open.load(Relaxed) {
            // Above 2**32 quinn-proto does not pace either.
            return 1 << 40;
        }
        self.inner.window()
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
