//! BBR: congestion control by a model of the path, its bandwidth (max_bw) and its round trip without a queue (min_rtt).
//!
//! The states and names are those of draft-ietf-ccwg-bbr. Loss alone does not slow it down. It differs from the draft:
//!
//! - There is no pacing_gain. quinn-proto paces by the congestion window and cannot be given a rate, so cwnd is the only
//!   control, and it stays close to one bandwidth-delay product (BDP).
//! - ProbeBW_UP keeps a quarter more in flight for two rounds. It comes less often where that loses packets.
//! - A competing flow that fills the queue shows as a round trip longer than our own inflight explains. Then cwnd_gain
//!   grows until that causes loss, which is how loss-based flows share.
//! - A queue on the return path makes the round trip longer as well, and inflight then does not fill the forward path.
//!   The two are told apart by probing: if more inflight delivers proportionally more, the queue is on the return path,
//!   and the longer round trip becomes min_rtt.

use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quinn_proto::congestion::Controller;
use quinn_proto::RttEstimator;

/// In datagrams (RFC 9002 section 7.2).
const INITIAL_CWND: u64 = 10;
/// Lower bound of the round trip in the BDP. On a path of microseconds both ends read their sockets every millisecond or
/// two; with less in flight they would handle datagrams one by one. A queue of this length does no harm.
const MIN_RTT_FLOOR: Duration = Duration::from_millis(4);
/// Smallest cwnd, in datagrams: enough for every second one to be acknowledged at once.
const MIN_PIPE_CWND: u64 = 4;
/// Length of the max_bw filter in rounds: more than one cycle of ProbeBW.
const MAX_BW_FILTER_ROUNDS: u64 = 10;
/// Validity of min_rtt, and duration of ProbeRTT.
const MIN_RTT_FILTER_LEN: Duration = Duration::from_secs(10);
const PROBE_RTT_DURATION: Duration = Duration::from_millis(200);
/// Startup ends when bandwidth has not grown by this factor for this many rounds,
const STARTUP_FULL_BW_THRESH: f64 = 1.25;
const STARTUP_FULL_BW_ROUNDS: u32 = 3;
/// or when this share of a round was lost.
const STARTUP_LOSS_THRESH: f64 = 0.1;
/// A round trip counts as long when it exceeds min_rtt by this factor and this margin.
const LONG_RTT_FACTOR: f64 = 1.125;
const LONG_RTT_MARGIN: Duration = Duration::from_millis(4);
/// cwnd in BDPs: in ProbeBW_CRUISE; at most, beside a flow that fills the queue; the factor of ProbeBW_UP; that of Drain
/// and ProbeBW_DOWN; and that of ProbeRTT.
const CWND_GAIN: f64 = 1.05;
const MAX_CWND_GAIN: f64 = 2.0;
const PROBE_UP_GAIN: f64 = 1.25;
const PROBE_DOWN_GAIN: f64 = 0.9;
const PROBE_RTT_CWND_GAIN: f64 = 0.5;
/// Increase of cwnd_gain per round beside such a flow, and the factor by which it shrinks after excess loss.
const CWND_GAIN_STEP: f64 = 0.05;
const CWND_GAIN_BETA: f64 = 0.85;
/// Lost datagrams of a round below which its loss counts as none.
const MIN_LOST_DATAGRAMS: u64 = 8;
/// A round has excess loss when its loss exceeds the baseline by this much: then our own inflight causes it.
const EXCESS_LOSS_THRESH: f64 = 0.02;
/// Growth of delivery, in Startup and in ProbeBW_UP, that proves that a long round trip is no queue on the forward path.
/// If it were our own queue, more inflight would deliver no more.
const STARTUP_LONG_RTT_THRESH: f64 = 1.75;
const PROBE_UP_LONG_RTT_THRESH: f64 = 1.15;
/// Weight of a round in the baseline loss.
const LOSS_EWMA_WEIGHT: f64 = 0.125;
/// Rounds in ProbeBW_CRUISE: usually, and at most;
const CRUISE_ROUNDS: u32 = 6;
const MAX_CRUISE_ROUNDS: u32 = 48;
/// and when round trips are long and less than this share of max_bw is delivered.
const MIN_CRUISE_ROUNDS: u32 = 2;
const LOW_BW_RATIO: f64 = 0.7;
/// Send records that are kept; if a round trip has more, some are left out.
const MAX_SEND_RECORDS: usize = 4096;
/// Round-trip samples that a round needs to count as long, if cwnd allows that many.
const MIN_RTT_SAMPLES: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Startup,
    Drain,
    ProbeBwCruise,
    ProbeBwUp,
    ProbeBwDown,
    ProbeRtt,
}

/// State at the time a packet was sent, for delivery rate samples (draft section 4.1).
#[derive(Clone, Copy)]
struct SendRecord {
    sent_time: Instant,
    delivered: u64,
    delivered_time: Instant,
    first_sent_time: Instant,
}

/// The controller of one path.
#[derive(Clone)]
pub struct Bbr {
    mtu: u64,
    cwnd: u64,
    state: State,
    /// Rounds since the state was entered.
    rounds_in_state: u32,
    state_began: Instant,
    cruise_rounds: u32,
    cwnd_gain: f64,
    delivered: u64,
    /// Time at which the newest delivered packet was acknowledged; after idle, at which sending began again.
    delivered_time: Instant,
    /// Time at which that packet was sent.
    first_sent_time: Instant,
    inflight: u64,
    send_records: VecDeque<SendRecord>,
    newest_acked_sent_time: Instant,
    newly_acked: u64,
    /// The most bytes that were acknowledged at once lately.
    extra_acked: u64,
    /// Delivery rates in bytes per second with their rounds, in falling order.
    bw_filter: VecDeque<(u64, f64)>,
    round_count: u64,
    round_start: Instant,
    round_delivered: u64,
    round_lost: u64,
    round_min_rtt: Option<Duration>,
    round_samples: u32,
    round_rtts: Duration,
    /// cwnd limited nothing in this round.
    round_is_app_limited: bool,
    baseline_loss: f64,
    min_rtt: Option<Duration>,
    min_rtt_stamp: Instant,
    /// Mean distance of a round trip from the shortest of its round: jitter of a path that reorders, or of radio.
    rtt_spread: Duration,
    probe_rtt_min_rtt: Option<Duration>,
    full_bw: f64,
    full_bw_rounds: u32,
    bw_before_up: f64,
    /// Delivery rate of the last round, in bytes per second, and the largest since the last ProbeBW_UP.
    round_bw: f64,
    max_round_bw: f64,
}

impl Bbr {
    /// Return a controller for a new path.
    pub fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            cwnd: INITIAL_CWND * mtu,
            state: State::Startup,
            rounds_in_state: 0,
            state_began: now,
            cruise_rounds: CRUISE_ROUNDS,
            cwnd_gain: CWND_GAIN,
            delivered: 0,
            delivered_time: now,
            first_sent_time: now,
            inflight: 0,
            send_records: VecDeque::new(),
            newest_acked_sent_time: now,
            newly_acked: 0,
            extra_acked: 0,
            bw_filter: VecDeque::new(),
            round_count: 0,
            round_start: now,
            round_delivered: 0,
            round_lost: 0,
            round_min_rtt: None,
            round_samples: 0,
            round_rtts: Duration::ZERO,
            round_is_app_limited: true,
            baseline_loss: 0.0,
            min_rtt: None,
            min_rtt_stamp: now,
            rtt_spread: Duration::ZERO,
            probe_rtt_min_rtt: None,
            full_bw: 0.0,
            full_bw_rounds: 0,
            bw_before_up: 0.0,
            round_bw: 0.0,
            max_round_bw: 0.0,
        }
    }

    fn max_bw(&self) -> f64 {
        self.bw_filter.front().map_or(0.0, |(_, rate)| *rate)
    }

    /// Return the BDP in bytes, with the usual round trip without a queue rather than the luckiest one.
    fn bdp(&self) -> f64 {
        let trip = (self.min_rtt.unwrap_or_default() + self.rtt_spread).max(MIN_RTT_FLOOR);
        self.max_bw() * trip.as_secs_f64()
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.state_began = now;
        self.rounds_in_state = 0;
        if state == State::ProbeBwUp {
            self.bw_before_up = self.max_bw();
        }
    }

    fn update_max_bw(&mut self, now: Instant, is_app_limited: bool) {
        while self.send_records.len() > 1
            && self.send_records[1].sent_time <= self.newest_acked_sent_time
        {
            self.send_records.pop_front();
        }
        let Some(before) = self
            .send_records
            .front()
            .filter(|record| record.sent_time <= self.newest_acked_sent_time)
        else {
            return;
        };
        // The longer of send_elapsed and ack_elapsed: compressed acknowledgements must not raise the rate.
        let ack_elapsed = now.saturating_duration_since(before.delivered_time);
        let send_elapsed = before
            .sent_time
            .saturating_duration_since(before.first_sent_time);
        let elapsed = ack_elapsed.max(send_elapsed);
        if elapsed.is_zero() {
            return;
        }
        let rate = (self.delivered - before.delivered) as f64 / elapsed.as_secs_f64();
        if is_app_limited && rate <= self.max_bw() {
            return;
        }
        while self
            .bw_filter
            .back()
            .is_some_and(|(_, other)| *other <= rate)
        {
            self.bw_filter.pop_back();
        }
        self.bw_filter.push_back((self.round_count, rate));
    }

    fn update_min_rtt(&mut self, now: Instant, sample: Duration) {
        self.round_samples += 1;
        self.round_rtts += sample;
        self.round_min_rtt = Some(self.round_min_rtt.map_or(sample, |rtt| rtt.min(sample)));
        self.probe_rtt_min_rtt = Some(self.probe_rtt_min_rtt.map_or(sample, |rtt| rtt.min(sample)));
        if self.min_rtt.is_none_or(|rtt| sample <= rtt) {
            self.min_rtt = Some(sample);
            self.min_rtt_stamp = now;
        }
    }

    /// Update the jitter, only in ProbeBW_CRUISE: elsewhere our own changes of the queue would look the same.
    fn update_rtt_spread(&mut self) {
        if let (Some(least), State::ProbeBwCruise) = (self.round_min_rtt, self.state) {
            if self.round_samples >= MIN_RTT_SAMPLES {
                let rtt_spread = (self.round_rtts / self.round_samples).saturating_sub(least);
                self.rtt_spread = (self.rtt_spread * 3 + rtt_spread) / 4;
            }
        }
    }

    /// Return the share of the round that was lost.
    fn loss(&self) -> f64 {
        if self.round_lost < MIN_LOST_DATAGRAMS * self.mtu {
            return 0.0;
        }
        let delivered = self.delivered - self.round_delivered;
        self.round_lost as f64 / ((self.round_lost + delivered) as f64).max(1.0)
    }

    /// Return true if the round trips of this round were longer than `explained` (inflight in BDPs) explains.
    fn is_round_long(&self, explained: f64) -> bool {
        let enough = u64::from(MIN_RTT_SAMPLES).min(self.cwnd / self.mtu / 2);
        u64::from(self.round_samples) >= enough
            && self
                .round_min_rtt
                .is_some_and(|rtt| self.is_long_rtt(rtt, explained))
    }

    fn is_long_rtt(&self, trip: Duration, explained: f64) -> bool {
        self.min_rtt
            .is_some_and(|rtt| trip > rtt.mul_f64(explained * LONG_RTT_FACTOR) + LONG_RTT_MARGIN)
    }

    fn end_round(&mut self, now: Instant) {
        let loss = self.loss();
        let has_excess_loss = loss > self.baseline_loss + EXCESS_LOSS_THRESH;
        self.rounds_in_state += 1;
        let seconds = now
            .saturating_duration_since(self.round_start)
            .as_secs_f64();
        self.round_bw = (self.delivered - self.round_delivered) as f64 / seconds.max(1e-6);
        match self.state {
            State::Startup => self.check_startup_done(now, loss),
            State::Drain | State::ProbeBwDown if self.rounds_in_state >= 4 => {
                self.enter(State::ProbeBwCruise, now)
            }
            State::ProbeBwCruise => {
                if has_excess_loss {
                    self.cwnd_gain = (self.cwnd_gain * CWND_GAIN_BETA).max(CWND_GAIN);
                } else if self.is_round_long(self.cwnd_gain) {
                    self.cwnd_gain = (self.cwnd_gain + CWND_GAIN_STEP).min(MAX_CWND_GAIN);
                } else {
                    self.cwnd_gain = (self.cwnd_gain - CWND_GAIN_STEP).max(CWND_GAIN);
                }
                let is_underused =
                    self.is_round_long(1.0) && self.round_bw < LOW_BW_RATIO * self.max_bw();
                if self.rounds_in_state > 1 {
                    // The first round belongs half to the state before.
                    self.max_round_bw = self.max_round_bw.max(self.round_bw);
                }
                if self.rounds_in_state >= self.cruise_rounds
                    || (is_underused && self.rounds_in_state >= MIN_CRUISE_ROUNDS)
                {
                    self.enter(State::ProbeBwUp, now);
                }
            }
            State::ProbeBwUp if self.rounds_in_state >= 2 => {
                let has_grown = self.max_bw() > 1.1 * self.bw_before_up;
                if has_excess_loss {
                    self.cruise_rounds = (2 * self.cruise_rounds).min(MAX_CRUISE_ROUNDS);
                } else {
                    self.cruise_rounds = CRUISE_ROUNDS;
                }
                let is_more = !self.round_is_app_limited
                    && self.round_bw > PROBE_UP_LONG_RTT_THRESH * self.max_round_bw;
                if is_more && !has_excess_loss && self.is_round_long(1.0) {
                    self.accept_long_rtt(now);
                    self.full_bw = self.round_bw;
                    self.max_round_bw = 0.0;
                    self.full_bw_rounds = 0;
                    self.enter(State::Startup, now);
                } else if has_grown && !has_excess_loss {
                    self.enter(State::ProbeBwUp, now);
                } else {
                    self.max_round_bw = 0.0;
                    self.enter(State::ProbeBwDown, now);
                }
            }
            _ => {}
        }
        self.update_rtt_spread();
        if !matches!(self.state, State::Startup | State::ProbeBwUp) {
            self.baseline_loss += LOSS_EWMA_WEIGHT * (loss - self.baseline_loss);
        }
        if !self.round_is_app_limited {
            self.round_count += 1;
        }
        while self.bw_filter.len() > 1
            && self.bw_filter[0].0 + MAX_BW_FILTER_ROUNDS < self.round_count
        {
            self.bw_filter.pop_front();
        }
        self.extra_acked = self.extra_acked * 7 / 8;
        self.round_start = now;
        self.round_delivered = self.delivered;
        self.round_lost = 0;
        self.round_min_rtt = None;
        self.round_samples = 0;
        self.round_rtts = Duration::ZERO;
        self.round_is_app_limited = true;
    }

    /// Take the longer round trip as min_rtt: it is not caused by our inflight.
    fn accept_long_rtt(&mut self, now: Instant) {
        self.min_rtt = self.round_min_rtt.or(self.min_rtt);
        self.min_rtt_stamp = now;
        self.cwnd_gain = CWND_GAIN;
    }

    fn check_startup_done(&mut self, now: Instant, loss: f64) {
        let rate = self.max_bw();
        if self.round_is_app_limited {
            return;
        }
        let mut is_round_long = self.is_round_long(1.0);
        if is_round_long && self.full_bw > 0.0 && rate >= STARTUP_LONG_RTT_THRESH * self.full_bw {
            self.accept_long_rtt(now);
            is_round_long = false;
        }
        if rate >= STARTUP_FULL_BW_THRESH * self.full_bw {
            self.full_bw = rate;
            self.full_bw_rounds = 0;
        } else {
            self.full_bw_rounds += 1;
        }
        if self.full_bw_rounds >= STARTUP_FULL_BW_ROUNDS
            || loss > STARTUP_LOSS_THRESH
            || is_round_long
        {
            self.enter(State::Drain, now);
        }
    }

    /// Make the transitions that need not wait for the end of a round.
    fn update_state(&mut self, now: Instant, inflight: u64, is_app_limited: bool) {
        let is_drained = inflight as f64 <= self.bdp();
        match self.state {
            State::Drain | State::ProbeBwDown if is_drained => {
                self.enter(State::ProbeBwCruise, now)
            }
            State::ProbeRtt
                if now.saturating_duration_since(self.state_began) > PROBE_RTT_DURATION =>
            {
                self.min_rtt = self.probe_rtt_min_rtt.or(self.min_rtt);
                self.enter(State::ProbeBwCruise, now);
            }
            State::ProbeBwCruise
                if now.saturating_duration_since(self.min_rtt_stamp) > MIN_RTT_FILTER_LEN =>
            {
                self.min_rtt_stamp = now;
                self.probe_rtt_min_rtt = None;
                if is_app_limited {
                    // Our own flow built no queue, so its round trips are as short as they get.
                    self.min_rtt = self.round_min_rtt.or(self.min_rtt);
                } else {
                    self.enter(State::ProbeRtt, now);
                }
            }
            _ => {}
        }
    }

    fn acked(&mut self, sent_time: Instant, bytes: u64) {
        self.delivered += bytes;
        self.newly_acked += bytes;
        self.newest_acked_sent_time = self.newest_acked_sent_time.max(sent_time);
    }

    fn set_cwnd(&mut self, is_app_limited: bool) {
        let cwnd_gain = match self.state {
            State::Startup => return,
            State::Drain | State::ProbeBwDown => PROBE_DOWN_GAIN,
            State::ProbeBwCruise => self.cwnd_gain,
            State::ProbeBwUp => self.cwnd_gain * PROBE_UP_GAIN,
            State::ProbeRtt => PROBE_RTT_CWND_GAIN,
        };
        let bdp = self.bdp();
        let more = (self.extra_acked as f64).min(bdp);
        let wanted = (cwnd_gain * bdp + more) as u64;
        // An application-limited flow has not measured the path, and pacing by a small cwnd would delay what it sends
        // next, acknowledgements included.
        let least = match self.state {
            _ if is_app_limited => INITIAL_CWND,
            State::ProbeBwUp => MIN_PIPE_CWND + 1,
            _ => MIN_PIPE_CWND,
        };
        self.cwnd = wanted.max(least * self.mtu);
    }
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        if self.inflight == 0 {
            self.delivered_time = now;
            self.first_sent_time = now;
        }
        self.inflight += bytes;
        let is_new = self
            .send_records
            .back()
            .is_none_or(|last| last.sent_time < now);
        if is_new && self.send_records.len() < MAX_SEND_RECORDS {
            self.send_records.push_back(SendRecord {
                sent_time: now,
                delivered: self.delivered,
                delivered_time: self.delivered_time,
                first_sent_time: self.first_sent_time,
            });
        }
    }

    fn on_ack(
        &mut self,
        _now: Instant,
        sent_time: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.acked(sent_time, bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        inflight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        if self.newly_acked == 0 {
            return;
        }
        // quinn-proto takes a sender that had only acknowledgements to send for one that cwnd limited.
        let is_app_limited = app_limited || inflight + self.newly_acked < self.cwnd / 2;
        let sample = now.saturating_duration_since(self.newest_acked_sent_time);
        if self.state == State::Startup && !is_app_limited && !self.is_long_rtt(sample, 1.0) {
            // Not once round trips are long: a queue has begun to form, and the end of the round, where the model is
            // updated, is a whole queue away. By then the queue would overflow.
            self.cwnd += self.newly_acked;
        }
        self.extra_acked = self.extra_acked.max(self.newly_acked);
        self.newly_acked = 0;
        self.round_is_app_limited &= is_app_limited;
        self.inflight = inflight;
        self.update_min_rtt(now, sample);
        self.update_max_bw(now, is_app_limited);
        self.delivered_time = now;
        self.first_sent_time = self.newest_acked_sent_time;
        if self.newest_acked_sent_time >= self.round_start {
            self.end_round(now);
        }
        self.update_state(now, inflight, is_app_limited);
        self.set_cwnd(is_app_limited);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.round_lost += lost_bytes;
        if is_persistent_congestion {
            // RFC 9002 section 7.6; what is delivered then measures the path anew.
            self.cwnd = MIN_PIPE_CWND * self.mtu;
            if self.state != State::Startup {
                self.enter(State::Drain, now);
            }
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.cwnd = self.cwnd.max(MIN_PIPE_CWND * self.mtu);
    }

    fn window(&self) -> u64 {
        self.cwnd
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_CWND * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BTreeMap, BinaryHeap};

    use super::*;

    const MTU: u64 = 1350;
    const MILLI: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MILLI;

    /// One bottleneck with a queue, and a sender that is never application-limited. Times in nanoseconds.
    struct Path {
        mbit: u64,
        delay: u64,
        queue: u64,
        loss_percent: u64,
        jitter: u64,
        /// Extra delay of acknowledgements on the return path, from the first tenth of a second on.
        back: u64,
    }

    impl Path {
        fn usual() -> Self {
            Self {
                mbit: 100,
                delay: 50 * MILLI,
                queue: 50 * MILLI,
                loss_percent: 0,
                jitter: 0,
                back: 0,
            }
        }
    }

    struct Outcome {
        /// The share of the line that was used in the last three quarters of the run.
        used: f64,
        /// Mean time in the queue, as a share of the round trip, then.
        queued: f64,
        /// Datagrams that the queue had no room for, in the whole run.
        dropped: u64,
    }

    fn run(path: &Path, seconds: u64) -> Outcome {
        let base = Instant::now();
        let at = |time: u64| base + Duration::from_nanos(time);
        let mut control = Bbr::new(base, MTU as u16);
        let cost = MTU * 8 * 1000 / path.mbit;
        let (mut now, mut free, mut next_send) = (0u64, 0u64, 0u64);
        let mut inflight = BTreeMap::new();
        let mut acks = BinaryHeap::new();
        let (mut number, mut chance) = (0u64, 12345u64);
        let (mut arrived, mut queued, mut counted) = (0u64, 0u64, 0u64);
        let (mut smoothed, mut newest, mut dropped) = (path.delay, 0, 0);
        while now < seconds * SECOND {
            while inflight.len() as u64 * MTU + MTU < control.window() && next_send <= now {
                control.on_sent(at(now), MTU, number);
                inflight.insert(number, now);
                next_send = now.max(next_send) + smoothed * MTU * 4 / (5 * control.window());
                chance = chance
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let wait = free.saturating_sub(now);
                if wait < path.queue {
                    free = free.max(now) + cost;
                    if now > seconds * SECOND / 4 {
                        queued += wait;
                        counted += 1;
                    }
                    if (chance >> 33) % 100 >= path.loss_percent {
                        let late = if path.jitter > 0 {
                            (chance >> 20) % path.jitter
                        } else {
                            0
                        };
                        let back = if now > SECOND / 10 { path.back } else { 0 };
                        acks.push(Reverse((free + path.delay + late + back, number)));
                    }
                } else {
                    dropped += 1;
                }
                number += 1;
            }
            let due = acks.peek().map_or(u64::MAX, |Reverse((time, _))| *time);
            let can_send = inflight.len() as u64 * MTU + MTU < control.window();
            let wake = if can_send {
                next_send.max(now + 1)
            } else {
                u64::MAX
            };
            now = due.min(wake);
            let mut has_acked = false;
            while let Some(Reverse((time, acked))) = acks.peek().copied().filter(|a| a.0 .0 <= now)
            {
                acks.pop();
                if let Some(sent_time) = inflight.remove(&acked) {
                    smoothed = (smoothed * 7 + (time - sent_time)) / 8;
                    newest = newest.max(sent_time);
                    control.acked(at(sent_time), MTU);
                    has_acked = true;
                    arrived += u64::from(now > seconds * SECOND / 4);
                }
            }
            let lost: Vec<u64> = inflight
                .iter()
                .take_while(|(_, sent_time)| {
                    **sent_time <= newest && **sent_time + smoothed * 9 / 8 + path.jitter < now
                })
                .map(|(number, _)| *number)
                .collect();
            for number in &lost {
                let sent_time = inflight.remove(number).unwrap_or_default();
                control.on_congestion_event(at(now), at(sent_time), false, MTU);
            }
            if has_acked {
                let bytes = inflight.len() as u64 * MTU;
                control.on_end_acks(at(now), bytes, false, None);
            }
        }
        let measured = seconds * SECOND * 3 / 4;
        Outcome {
            used: (arrived * cost) as f64 / measured as f64,
            queued: queued as f64 / counted.max(1) as f64 / path.delay as f64,
            dropped,
        }
    }

    #[test]
    fn a_clean_path_is_filled_and_its_queue_is_not() {
        let outcome = run(&Path::usual(), 20);
        println!(
            "clean: used {:.2} queued {:.2}",
            outcome.used, outcome.queued
        );
        assert!(outcome.used > 0.9 && outcome.queued < 0.2);
    }

    #[test]
    fn a_queue_of_two_round_trips_does_not_run_over_at_the_start() {
        for (mbit, delay) in [(20, 20), (100, 50), (500, 100)] {
            let outcome = run(
                &Path {
                    mbit,
                    delay: delay * MILLI,
                    queue: 2 * delay * MILLI,
                    ..Path::usual()
                },
                2,
            );
            println!("start {mbit} Mbit/s: dropped {}", outcome.dropped);
            assert_eq!(outcome.dropped, 0);
        }
    }

    #[test]
    fn random_loss_costs_little_more_than_what_is_lost() {
        for loss_percent in [1, 5] {
            let outcome = run(
                &Path {
                    loss_percent,
                    ..Path::usual()
                },
                20,
            );
            println!(
                "loss {loss_percent}: used {:.2} queued {:.2}",
                outcome.used, outcome.queued
            );
            assert!(outcome.used > 0.8);
        }
    }

    #[test]
    fn a_bloated_queue_stays_empty() {
        let outcome = run(
            &Path {
                mbit: 20,
                queue: SECOND,
                ..Path::usual()
            },
            20,
        );
        println!(
            "bloated: used {:.2} queued {:.2}",
            outcome.used, outcome.queued
        );
        assert!(outcome.used > 0.9 && outcome.queued < 0.3);
    }

    #[test]
    fn a_shallow_queue_is_enough() {
        let outcome = run(
            &Path {
                queue: 5 * MILLI,
                ..Path::usual()
            },
            20,
        );
        println!(
            "shallow: used {:.2} queued {:.2}",
            outcome.used, outcome.queued
        );
        assert!(outcome.used > 0.85);
    }

    #[test]
    fn a_queue_on_the_return_path_does_not_matter() {
        for back in [25, 75, 150] {
            let outcome = run(
                &Path {
                    back: back * MILLI,
                    ..Path::usual()
                },
                8,
            );
            println!(
                "back {back}: used {:.2} queued {:.2}",
                outcome.used, outcome.queued
            );
            assert!(outcome.used > 0.8);
        }
    }

    #[test]
    fn an_app_limited_flow_stays_in_startup() {
        let base = Instant::now();
        let mut control = Bbr::new(base, MTU as u16);
        for round in 0..20 {
            let sent_time = base + Duration::from_millis(50 * round);
            control.on_sent(sent_time, 100, round);
            control.acked(sent_time, 100);
            control.on_end_acks(sent_time + Duration::from_millis(50), 0, false, None);
        }
        assert_eq!(control.state, State::Startup);
        assert_eq!(control.cwnd, INITIAL_CWND * MTU);
    }

    #[test]
    fn reordering_does_not_matter() {
        let outcome = run(
            &Path {
                jitter: 20 * MILLI,
                ..Path::usual()
            },
            20,
        );
        println!(
            "jitter: used {:.2} queued {:.2}",
            outcome.used, outcome.queued
        );
        assert!(outcome.used > 0.85);
    }
}
