//! Conversion between the caller's seconds and quinn-proto's instants.

use std::time::{Duration, Instant};

/// The largest time that is represented: a century.
const MAX_SECONDS: f64 = 100.0 * 365.0 * 86_400.0;

/// Convert a setting in seconds, at least `min`; NaN and negative numbers give `min`.
pub fn duration(seconds: f64, min: f64) -> Duration {
    let seconds = if seconds > min { seconds } else { min };
    Duration::from_secs_f64(seconds.min(MAX_SECONDS))
}

/// Maps a clock that counts seconds from an arbitrary point to [`Instant`]. No clock is read after construction.
pub struct Clock {
    base: Instant,
}

impl Clock {
    /// Second 0 of the caller's clock is the time of this call.
    pub fn new() -> Self {
        Self {
            base: Instant::now(),
        }
    }

    /// Convert seconds to an instant; NaN and infinities give second 0.
    pub fn instant(&self, seconds: f64) -> Instant {
        let seconds = if seconds.is_finite() { seconds } else { 0.0 };
        self.base + Duration::from_secs_f64(seconds.clamp(0.0, MAX_SECONDS))
    }

    /// Convert an instant to the first representable number of seconds that is not before it, so that a timer which
    /// runs at that time is due.
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
    fn a_converted_deadline_is_not_early() {
        let clock = Clock::new();
        for nanos in (0..1_000_000_007u64).step_by(999_983) {
            let instant = clock.base + Duration::from_nanos(nanos * 1_000_003);
            assert!(clock.instant(clock.seconds(instant)) >= instant);
        }
    }

    #[test]
    fn an_invalid_setting_becomes_the_minimum() {
        for invalid in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.5] {
            assert_eq!(duration(invalid, 1.0), Duration::from_secs(1));
        }
        assert_eq!(duration(2.0, 1.0), Duration::from_secs(2));
        assert_eq!(
            duration(f64::INFINITY, 1.0),
            Duration::from_secs_f64(MAX_SECONDS)
        );
    }

    #[test]
    fn invalid_seconds_become_second_0() {
        let clock = Clock::new();
        for invalid in [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, -1.0] {
            assert_eq!(clock.instant(invalid), clock.base);
        }
    }
}
