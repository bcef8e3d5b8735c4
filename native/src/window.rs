//! How many bytes a peer may be ahead of delivery on all streams: what it may pin here behind one byte that is missing.
//!
//! It is earned: a peer that has delivered nothing has a small window, one that has delivered much has the largest. So
//! thousands of connections that only pin memory have little each, and one that carries bytes is not held up: its window
//! is always several times what it has sent so far, and a congestion window at most doubles in a round trip.

/// A window is so many times what was delivered in order.
const FACTOR: u64 = 4;

/// The window of one connection.
pub struct Window {
    size: u64,
    most: u64,
    delivered: u64,
}

impl Window {
    /// At first of `first` bytes, in the end of `most`.
    pub fn new(first: u64, most: u64) -> Self {
        Self {
            size: first.min(most),
            most,
            delivered: 0,
        }
    }

    /// How large it is.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes were handed over, in order; whether the window has grown. It doubles, so that this is rare.
    pub fn delivered(&mut self, bytes: u64) -> bool {
        self.delivered += bytes;
        let before = self.size;
        while self.size < self.most && self.delivered.saturating_mul(FACTOR) >= self.size * 2 {
            self.size = (self.size * 2).min(self.most);
        }
        self.size > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_earned() {
        let mut window = Window::new(256, 4096);
        assert!(!window.delivered(127));
        assert!(window.delivered(1));
        assert_eq!(window.size(), 512);
        assert!(!window.delivered(127));
        assert!(window.delivered(1 << 30));
        assert_eq!(window.size(), 4096);
        assert!(!window.delivered(u64::from(u32::MAX)));
    }

    #[test]
    fn it_is_never_larger_than_the_largest() {
        assert_eq!(Window::new(1000, 10).size(), 10);
        let mut window = Window::new(300, 1000);
        window.delivered(1 << 20);
        assert_eq!(window.size(), 1000);
    }
}
