//! Congestion control by a model of the path: how much it carries and how long it is when nobody queues (the idea of
//! BBR, draft-ietf-ccwg-bbr). Losses do not slow it down; what it keeps in flight is what fits.
//!
//! quinn-proto paces by the window and has no way to be told a rate, so the window is what is steered here, and it stays
//! close to one bandwidth-delay product: version 1 keeps two of them and paces instead. What else is different:
//!
//! - the path is probed for more with a quarter more in flight for two rounds, less often where that loses packets;
//! - somebody who keeps the queue full is noticed by the round trip being longer than what is in flight here explains.
//!   Then more is kept in flight, until that loses packets, which is how those who fill queues share;
//! - acknowledgements that wait in a queue on their way back make the round trip longer as well, and what is in flight
//!   then does not fill the path. That queue is told from one on the way there by more in flight bringing as much more
//!   through. The round trip is then believed to be that long.

use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quinn_proto::congestion::Controller;
use quinn_proto::RttEstimator;

/// Datagrams (RFC 9002 section 7.2).
const INITIAL_WINDOW: u64 = 10;
/// Round trips count as no shorter: on a path of microseconds the ends look at their sockets once in a millisecond or
/// two, and with less in flight they would handle datagrams one by one. Nobody notices a queue of that length.
const LEAST_TRIP: Duration = Duration::from_millis(4);
/// Datagrams: enough for every second one to be acknowledged at once.
const LEAST_WINDOW: u64 = 4;
/// Rounds for which the best rate is remembered: more than one cycle of probing.
const RATE_ROUNDS: u64 = 10;
/// How long the shortest round trip is believed, and how long it is looked for again.
const RTT_BELIEVED: Duration = Duration::from_secs(10);
const RTT_PROBE: Duration = Duration::from_millis(200);
/// The start is over when the rate has not grown by so much for so many rounds...
const START_GROWTH: f64 = 1.25;
const START_ROUNDS: u32 = 3;
/// ... or when so much of a round was lost.
const START_LOSS: f64 = 0.1;
/// A round trip counts as longer than it has to be when it is by this factor and this time.
const LONGER: f64 = 1.125;
const LONGER_BY: Duration = Duration::from_millis(4);
/// Bandwidth-delay products in flight: usually; at most, beside somebody who fills the queue; while probing for more,
/// beyond what is usual; after that; and while the shortest round trip is looked for.
const USUAL: f64 = 1.05;
const MOST: f64 = 2.0;
const UP: f64 = 1.25;
const DOWN: f64 = 0.9;
const PROBE_RTT: f64 = 0.5;
/// How fast the first of these grows in a round, and what is left of it when that loses packets.
const GROWTH: f64 = 0.05;
const CUT: f64 = 0.85;
/// Datagrams that a round has to lose to say anything: fewer are bad luck.
const TELLING_LOSS: u64 = 8;
/// A round loses packets because of what we do when it loses so much more than others do.
const EXCESS_LOSS: f64 = 0.02;
/// What twice as much in flight, and what a probe for more has to bring, for a long round trip to be nobody's queue on
/// the way there. Were it ours, they would bring nothing.
const START_PROOF: f64 = 1.75;
const UP_PROOF: f64 = 1.15;
/// Weight of a round in the usual loss.
const LOSS_WEIGHT: f64 = 0.125;
/// Rounds between probes for more: usually, and at most.
const CRUISE: u32 = 6;
const LONGEST_CRUISE: u32 = 48;
/// ... and when round trips are long and no more than so much of the best rate comes through.
const SHORTEST_CRUISE: u32 = 2;
const SLACK: f64 = 0.7;
/// Moments of sending that are remembered; where there are more in a round trip, some are left out.
const MAX_MOMENTS: usize = 4096;
/// Samples of the round trip that a round needs to say that it was long, where so many fit.
const ENOUGH_SAMPLES: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    Drain,
    Cruise,
    Up,
    Down,
    ProbeRtt,
}

/// When something was sent, what had been delivered then, and since when; and when the newest of that had been sent.
#[derive(Clone, Copy)]
struct Moment {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    delivered_sent: Instant,
}

/// See the module.
#[derive(Clone)]
pub struct Bbr {
    mtu: u64,
    window: u64,
    phase: Phase,
    /// Rounds that the phase has lasted.
    rounds: u32,
    phase_began: Instant,
    cruise: u32,
    gain: f64,
    delivered: u64,
    /// When the newest of it was acknowledged; while nothing is in flight, when something was sent again.
    delivered_at: Instant,
    /// When that was sent.
    delivered_sent: Instant,
    in_flight: u64,
    moments: VecDeque<Moment>,
    newest_acked: Instant,
    batch: u64,
    /// The most that was acknowledged at once lately.
    aggregation: u64,
    /// Rates in bytes a second by round, falling.
    rates: VecDeque<(u64, f64)>,
    round: u64,
    round_began: Instant,
    round_delivered: u64,
    round_lost: u64,
    round_rtt: Option<Duration>,
    round_samples: u32,
    round_rtts: Duration,
    /// Nothing was held back by the window in this round.
    round_was_idle: bool,
    usual_loss: f64,
    rtt: Option<Duration>,
    rtt_since: Instant,
    /// How much longer a round trip is than the shortest of its round: a path that reorders, or a radio.
    spread: Duration,
    probed_rtt: Option<Duration>,
    start_rate: f64,
    start_rounds: u32,
    rate_before_up: f64,
    /// What the last round brought through, in bytes a second, and the most that one did since the last probe.
    pace: f64,
    best_pace: f64,
}

impl Bbr {
    /// For a new path.
    pub fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            window: INITIAL_WINDOW * mtu,
            phase: Phase::Start,
            rounds: 0,
            phase_began: now,
            cruise: CRUISE,
            gain: USUAL,
            delivered: 0,
            delivered_at: now,
            delivered_sent: now,
            in_flight: 0,
            moments: VecDeque::new(),
            newest_acked: now,
            batch: 0,
            aggregation: 0,
            rates: VecDeque::new(),
            round: 0,
            round_began: now,
            round_delivered: 0,
            round_lost: 0,
            round_rtt: None,
            round_samples: 0,
            round_rtts: Duration::ZERO,
            round_was_idle: true,
            usual_loss: 0.0,
            rtt: None,
            rtt_since: now,
            spread: Duration::ZERO,
            probed_rtt: None,
            start_rate: 0.0,
            start_rounds: 0,
            rate_before_up: 0.0,
            pace: 0.0,
            best_pace: 0.0,
        }
    }

    fn rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |(_, rate)| *rate)
    }

    /// What the path holds, in bytes: for as long as a round trip takes without a queue, not at its luckiest.
    fn product(&self) -> f64 {
        let trip = (self.rtt.unwrap_or_default() + self.spread).max(LEAST_TRIP);
        self.rate() * trip.as_secs_f64()
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.phase_began = now;
        self.rounds = 0;
        if phase == Phase::Up {
            self.rate_before_up = self.rate();
        }
    }

    fn note_rate(&mut self, now: Instant, is_idle: bool) {
        while self.moments.len() > 1 && self.moments[1].sent <= self.newest_acked {
            self.moments.pop_front();
        }
        let Some(before) = self
            .moments
            .front()
            .filter(|moment| moment.sent <= self.newest_acked)
        else {
            return;
        };
        // The longer of how long it took to send and to be acknowledged: acknowledgements that were held up and come
        // all at once say no more than they would have said one by one.
        let acking = now.saturating_duration_since(before.delivered_at);
        let sending = before.sent.saturating_duration_since(before.delivered_sent);
        let elapsed = acking.max(sending);
        if elapsed.is_zero() {
            return;
        }
        let rate = (self.delivered - before.delivered) as f64 / elapsed.as_secs_f64();
        if is_idle && rate <= self.rate() {
            return;
        }
        while self.rates.back().is_some_and(|(_, other)| *other <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((self.round, rate));
    }

    fn note_rtt(&mut self, now: Instant, sample: Duration) {
        self.round_samples += 1;
        self.round_rtts += sample;
        self.round_rtt = Some(self.round_rtt.map_or(sample, |rtt| rtt.min(sample)));
        self.probed_rtt = Some(self.probed_rtt.map_or(sample, |rtt| rtt.min(sample)));
        if self.rtt.is_none_or(|rtt| sample <= rtt) {
            self.rtt = Some(sample);
            self.rtt_since = now;
        }
    }

    /// Not while the queue is made longer or shorter from here, which would look the same.
    fn note_spread(&mut self) {
        if let (Some(least), Phase::Cruise) = (self.round_rtt, self.phase) {
            if self.round_samples >= ENOUGH_SAMPLES {
                let spread = (self.round_rtts / self.round_samples).saturating_sub(least);
                self.spread = (self.spread * 3 + spread) / 4;
            }
        }
    }

    /// The share of the round that was lost.
    fn loss(&self) -> f64 {
        if self.round_lost < TELLING_LOSS * self.mtu {
            return 0.0;
        }
        let delivered = self.delivered - self.round_delivered;
        self.round_lost as f64 / ((self.round_lost + delivered) as f64).max(1.0)
    }

    /// Whether the round was longer than what is in flight explains.
    fn is_long(&self, explained: f64) -> bool {
        let enough = u64::from(ENOUGH_SAMPLES).min(self.window / self.mtu / 2);
        u64::from(self.round_samples) >= enough
            && self
                .round_rtt
                .is_some_and(|round| self.is_longer(round, explained))
    }

    fn is_longer(&self, trip: Duration, explained: f64) -> bool {
        self.rtt
            .is_some_and(|rtt| trip > rtt.mul_f64(explained * LONGER) + LONGER_BY)
    }

    fn end_round(&mut self, now: Instant) {
        let loss = self.loss();
        let is_costly = loss > self.usual_loss + EXCESS_LOSS;
        self.rounds += 1;
        let seconds = now
            .saturating_duration_since(self.round_began)
            .as_secs_f64();
        self.pace = (self.delivered - self.round_delivered) as f64 / seconds.max(1e-6);
        match self.phase {
            Phase::Start => self.start(now, loss),
            Phase::Drain | Phase::Down if self.rounds >= 4 => self.enter(Phase::Cruise, now),
            Phase::Cruise => {
                if is_costly {
                    self.gain = (self.gain * CUT).max(USUAL);
                } else if self.is_long(self.gain) {
                    self.gain = (self.gain + GROWTH).min(MOST);
                } else {
                    self.gain = (self.gain - GROWTH).max(USUAL);
                }
                let is_doubtful = self.is_long(1.0) && self.pace < SLACK * self.rate();
                if self.rounds > 1 {
                    // The first is half the phase before.
                    self.best_pace = self.best_pace.max(self.pace);
                }
                if self.rounds >= self.cruise || (is_doubtful && self.rounds >= SHORTEST_CRUISE) {
                    self.enter(Phase::Up, now);
                }
            }
            Phase::Up if self.rounds >= 2 => {
                let has_grown = self.rate() > 1.1 * self.rate_before_up;
                if is_costly {
                    self.cruise = (2 * self.cruise).min(LONGEST_CRUISE);
                } else {
                    self.cruise = CRUISE;
                }
                let is_more = !self.round_was_idle && self.pace > UP_PROOF * self.best_pace;
                if is_more && !is_costly && self.is_long(1.0) {
                    self.believe(now);
                    self.start_rate = self.pace;
                    self.best_pace = 0.0;
                    self.start_rounds = 0;
                    self.enter(Phase::Start, now);
                } else if has_grown && !is_costly {
                    self.enter(Phase::Up, now);
                } else {
                    self.best_pace = 0.0;
                    self.enter(Phase::Down, now);
                }
            }
            _ => {}
        }
        self.note_spread();
        if !matches!(self.phase, Phase::Start | Phase::Up) {
            self.usual_loss += LOSS_WEIGHT * (loss - self.usual_loss);
        }
        if !self.round_was_idle {
            self.round += 1;
        }
        while self.rates.len() > 1 && self.rates[0].0 + RATE_ROUNDS < self.round {
            self.rates.pop_front();
        }
        self.aggregation = self.aggregation * 7 / 8;
        self.round_began = now;
        self.round_delivered = self.delivered;
        self.round_lost = 0;
        self.round_rtt = None;
        self.round_samples = 0;
        self.round_rtts = Duration::ZERO;
        self.round_was_idle = true;
    }

    /// The round trip is longer than it was, and not because of what is in flight here.
    fn believe(&mut self, now: Instant) {
        self.rtt = self.round_rtt.or(self.rtt);
        self.rtt_since = now;
        self.gain = USUAL;
    }

    fn start(&mut self, now: Instant, loss: f64) {
        let rate = self.rate();
        if self.round_was_idle {
            return;
        }
        let mut is_long = self.is_long(1.0);
        if is_long && self.start_rate > 0.0 && rate >= START_PROOF * self.start_rate {
            self.believe(now);
            is_long = false;
        }
        if rate >= START_GROWTH * self.start_rate {
            self.start_rate = rate;
            self.start_rounds = 0;
        } else {
            self.start_rounds += 1;
        }
        if self.start_rounds >= START_ROUNDS || loss > START_LOSS || is_long {
            self.enter(Phase::Drain, now);
        }
    }

    /// What can be decided within a round.
    fn look(&mut self, now: Instant, in_flight: u64, is_idle: bool) {
        let is_drained = in_flight as f64 <= self.product();
        match self.phase {
            Phase::Drain | Phase::Down if is_drained => self.enter(Phase::Cruise, now),
            Phase::ProbeRtt if now.saturating_duration_since(self.phase_began) > RTT_PROBE => {
                self.rtt = self.probed_rtt.or(self.rtt);
                self.enter(Phase::Cruise, now);
            }
            Phase::Cruise if now.saturating_duration_since(self.rtt_since) > RTT_BELIEVED => {
                self.rtt_since = now;
                self.probed_rtt = None;
                if is_idle {
                    // Nothing of ours was in the queue: its round trips are as short as they get.
                    self.rtt = self.round_rtt.or(self.rtt);
                } else {
                    self.enter(Phase::ProbeRtt, now);
                }
            }
            _ => {}
        }
    }

    fn acked(&mut self, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.batch += bytes;
        self.newest_acked = self.newest_acked.max(sent);
    }

    fn set_window(&mut self, is_idle: bool) {
        let gain = match self.phase {
            Phase::Start => return,
            Phase::Drain | Phase::Down => DOWN,
            Phase::Cruise => self.gain,
            Phase::Up => self.gain * UP,
            Phase::ProbeRtt => PROBE_RTT,
        };
        let product = self.product();
        let more = (self.aggregation as f64).min(product);
        let wanted = (gain * product + more) as u64;
        // Who has little to say has not found out what the path carries, and pacing by a small window would hold back
        // what is said next, acknowledgements counted in.
        let least = match self.phase {
            _ if is_idle => INITIAL_WINDOW,
            Phase::Up => LEAST_WINDOW + 1,
            _ => LEAST_WINDOW,
        };
        self.window = wanted.max(least * self.mtu);
    }
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        if self.in_flight == 0 {
            self.delivered_at = now;
            self.delivered_sent = now;
        }
        self.in_flight += bytes;
        let is_new = self.moments.back().is_none_or(|last| last.sent < now);
        if is_new && self.moments.len() < MAX_MOMENTS {
            self.moments.push_back(Moment {
                sent: now,
                delivered: self.delivered,
                delivered_at: self.delivered_at,
                delivered_sent: self.delivered_sent,
            });
        }
    }

    fn on_ack(
        &mut self,
        _now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.acked(sent, bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        if self.batch == 0 {
            return;
        }
        // quinn-proto takes a sender who had only acknowledgements to send for one whom the window held back.
        let is_idle = app_limited || in_flight + self.batch < self.window / 2;
        let sample = now.saturating_duration_since(self.newest_acked);
        if self.phase == Phase::Start && !is_idle && !self.is_longer(sample, 1.0) {
            // A queue has begun, and the round's end, where more is known, is a whole queue away: by then it would
            // have run over.
            self.window += self.batch;
        }
        self.aggregation = self.aggregation.max(self.batch);
        self.batch = 0;
        self.round_was_idle &= is_idle;
        self.in_flight = in_flight;
        self.note_rtt(now, sample);
        self.note_rate(now, is_idle);
        self.delivered_at = now;
        self.delivered_sent = self.newest_acked;
        if self.newest_acked >= self.round_began {
            self.end_round(now);
        }
        self.look(now, in_flight, is_idle);
        self.set_window(is_idle);
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
            // RFC 9002 section 7.6; what comes through then says what the path carries now.
            self.window = LEAST_WINDOW * self.mtu;
            if self.phase != Phase::Start {
                self.enter(Phase::Drain, now);
            }
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.window = self.window.max(LEAST_WINDOW * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW * self.mtu
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

    /// One bottleneck with a queue, and a sender that always has something to say. Times in nanoseconds.
    struct Path {
        mbit: u64,
        delay: u64,
        queue: u64,
        loss_percent: u64,
        jitter: u64,
        /// What acknowledgements wait for longer, on their way back, from the first tenth of a second on.
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
        let mut in_flight = BTreeMap::new();
        let mut acks = BinaryHeap::new();
        let (mut number, mut chance) = (0u64, 12345u64);
        let (mut arrived, mut queued, mut counted) = (0u64, 0u64, 0u64);
        let (mut smoothed, mut newest, mut dropped) = (path.delay, 0, 0);
        while now < seconds * SECOND {
            while in_flight.len() as u64 * MTU + MTU < control.window() && next_send <= now {
                control.on_sent(at(now), MTU, number);
                in_flight.insert(number, now);
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
            let can_send = in_flight.len() as u64 * MTU + MTU < control.window();
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
                if let Some(sent) = in_flight.remove(&acked) {
                    smoothed = (smoothed * 7 + (time - sent)) / 8;
                    newest = newest.max(sent);
                    control.acked(at(sent), MTU);
                    has_acked = true;
                    arrived += u64::from(now > seconds * SECOND / 4);
                }
            }
            let lost: Vec<u64> = in_flight
                .iter()
                .take_while(|(_, sent)| {
                    **sent <= newest && **sent + smoothed * 9 / 8 + path.jitter < now
                })
                .map(|(number, _)| *number)
                .collect();
            for number in &lost {
                let sent = in_flight.remove(number).unwrap_or_default();
                control.on_congestion_event(at(now), at(sent), false, MTU);
            }
            if has_acked {
                let bytes = in_flight.len() as u64 * MTU;
                control.on_end_acks(at(now), bytes, false, None);
            }
        }
        let window = seconds * SECOND * 3 / 4;
        Outcome {
            used: (arrived * cost) as f64 / window as f64,
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
    fn a_queue_on_the_way_back_does_not_matter() {
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
    fn who_has_little_to_say_is_still_at_the_start() {
        let base = Instant::now();
        let mut control = Bbr::new(base, MTU as u16);
        for round in 0..20 {
            let sent = base + Duration::from_millis(50 * round);
            control.on_sent(sent, 100, round);
            control.acked(sent, 100);
            control.on_end_acks(sent + Duration::from_millis(50), 0, false, None);
        }
        assert_eq!(control.phase, Phase::Start);
        assert_eq!(control.window, INITIAL_WINDOW * MTU);
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
