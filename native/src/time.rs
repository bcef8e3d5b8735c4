//! The caller's seconds, and the instants that quinn-proto wants for them.

use std::time::{Duration, Instant};

/// The latest time that is told apart: a century of seconds.
const LATEST: f64 = 100.0 * 365.0 * 86_400.0;

/// A setting in seconds, at least `least`; what is no time at all is `least`.
pub fn span(seconds: f64, least: f64) -> Duration {
    let seconds = if seconds > least { seconds } else { least };
    Duration::from_secs_f64(seconds.min(LATEST))
}

/// Maps a clock that counts seconds from anywhere to [`Instant`]; no clock is read after construction.
pub struct Clock {
    base: Instant,
}

impl Clock {
    /// Second 0 of the caller's clock is the moment of this call.
    pub fn new() -> Self {
        Self {
            base: Instant::now(),
        }
    }

    /// The instant for a time in seconds; what is no time at all is second 0.
    pub fn instant(&self, seconds: f64) -> Instant {
        let seconds = if seconds.is_finite() { seconds } else { 0.0 };
        self.base + Duration::from_secs_f64(seconds.clamp(0.0, LATEST))
    }

    /// The first representable time in seconds that is not before `instant`: a timer that is run when this
    /// says so is due.
    pub fn seconds(&self, instant: Instant) -> f64 {
        let wanted = instant.saturating_duration_since(self.base);
        let mut seconds = wanted.as_secs_f64();
        while Duration::from_secs_f64(seconds) < wanted {
            // The next number up (`f64::next_up` is younger than the Rust that Debian has).
            seconds = f64::from_bits(seconds.to_bits() + 1);
        }
        seconds
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_due_when_it_says_so() {
        let clock = Clock::new();
        for nanos in (0..1_000_000_007u64).step_by(999_983) {
            let instant = clock.base + Duration::from_nanos(nanos * 1_000_003);
            assert!(clock.instant(clock.seconds(instant)) >= instant);
        }
    }

    #[test]
    fn a_setting_that_is_no_time_is_the_least() {
        for strange in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.5] {
            assert_eq!(span(strange, 1.0), Duration::from_secs(1));
        }
        assert_eq!(span(2.0, 1.0), Duration::from_secs(2));
        assert_eq!(span(f64::INFINITY, 1.0), Duration::from_secs_f64(LATEST));
    }

    #[test]
    fn what_is_no_time_is_second_0() {
        let clock = Clock::new();
        for strange in [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, -1.0] {
            assert_eq!(clock.instant(strange), clock.base);
        }
    }
}
