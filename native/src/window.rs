//! The connection's receive window: how many bytes a peer may send ahead of delivery, on all streams. That is the memory
//! it can pin here behind one missing byte.
//!
//! The window grows with delivery. A peer that has delivered nothing has a small one; a peer that has delivered much has
//! the largest. So thousands of connections that only pin memory have little each. A busy connection is not slowed down:
//! its window is several times what it has sent so far, and a congestion window at most doubles in a round trip.

/// The window is this many times the bytes delivered in order.
const WINDOW_FACTOR: u64 = 4;

/// The receive window of one connection.
pub struct ReceiveWindow {
    size: u64,
    max: u64,
    total: u64,
}

impl ReceiveWindow {
    /// `first`: the initial size in bytes; `max`: the final one.
    pub fn new(first: u64, max: u64) -> Self {
        Self {
            size: first.min(max),
            max,
            total: 0,
        }
    }

    /// Return the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Note bytes delivered in order. Returns true if the window has grown; it doubles, so that this is rare.
    pub fn on_delivered(&mut self, bytes: u64) -> bool {
        self.total += bytes;
        let before = self.size;
        while self.size < self.max && self.total.saturating_mul(WINDOW_FACTOR) >= self.size * 2 {
            self.size = (self.size * 2).min(self.max);
        }
        self.size > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_delivery() {
        let mut window = ReceiveWindow::new(256, 4096);
        assert!(!window.on_delivered(127));
        assert!(window.on_delivered(1));
        assert_eq!(window.size(), 512);
        assert!(!window.on_delivered(127));
        assert!(window.on_delivered(1 << 30));
        assert_eq!(window.size(), 4096);
        assert!(!window.on_delivered(u64::from(u32::MAX)));
    }

    #[test]
    fn the_window_never_exceeds_its_maximum() {
        assert_eq!(ReceiveWindow::new(1000, 10).size(), 10);
        let mut window = ReceiveWindow::new(300, 1000);
        window.on_delivered(1 << 20);
        assert_eq!(window.size(), 1000);
    }
}
