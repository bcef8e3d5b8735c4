//! Reading the frames of a 1-RTT packet for path validation (RFC 9000 sections 12.4 and 19).

/// Challenges, and responses, of one packet that are kept; honest peers send one of each.
const MAX_TOKENS: usize = 8;

/// The frames of interest in a payload.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The end of the last frame that is not PADDING.
    pub end: usize,
    /// The last frame has no length and extends to the end of the payload, so nothing may be appended.
    pub is_open_ended: bool,
    /// The data of PATH_CHALLENGE frames.
    pub challenges: Vec<[u8; 8]>,
    /// The data of PATH_RESPONSE frames.
    pub responses: Vec<[u8; 8]>,
}

/// Read a payload. Returns None if a frame is unknown or truncated.
pub fn inspect(payload: &[u8]) -> Option<Found> {
    let mut reader = Reader { payload, at: 0 };
    let mut found = Found::default();
    while reader.at < payload.len() {
        let kind = reader.varint()?;
        match kind {
            0x00 => continue,
            0x01 | 0x1E | 0x1F => {}
            0x02 | 0x03 => reader.ack(kind == 0x03)?,
            0x04 => reader.varints(3)?,
            0x05 | 0x11 | 0x15 => reader.varints(2)?,
            0x06 => {
                reader.varint()?;
                reader.length_prefixed()?;
            }
            0x07 => reader.length_prefixed()?,
            0x08..=0x0F => found.is_open_ended = reader.stream(kind)?,
            0x10 | 0x12 | 0x13 | 0x14 | 0x16 | 0x17 | 0x19 => reader.varints(1)?,
            0x18 => reader.new_connection_id()?,
            0x1A => keep(&mut found.challenges, reader.token()?),
            0x1B => keep(&mut found.responses, reader.token()?),
            0x1C => {
                reader.varints(2)?;
                reader.length_prefixed()?;
            }
            0x1D => {
                reader.varint()?;
                reader.length_prefixed()?;
            }
            // ACK_FREQUENCY (draft-ietf-quic-ack-frequency).
            0xAF => reader.varints(4)?,
            _ => return None,
        }
        found.end = reader.at;
    }
    Some(found)
}

fn keep(tokens: &mut Vec<[u8; 8]>, token: [u8; 8]) {
    if tokens.len() < MAX_TOKENS {
        tokens.push(token);
    }
}

struct Reader<'a> {
    payload: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, size: u64) -> Option<&[u8]> {
        let end = self.at.checked_add(usize::try_from(size).ok()?)?;
        let taken = self.payload.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// RFC 9000 section 16.
    fn varint(&mut self) -> Option<u64> {
        let first = *self.payload.get(self.at)?;
        let bytes = self.take(1 << (first >> 6))?;
        let start = u64::from(bytes[0] & 0x3F);
        Some(
            bytes[1..]
                .iter()
                .fold(start, |value, byte| value << 8 | u64::from(*byte)),
        )
    }

    fn varints(&mut self, count: u64) -> Option<()> {
        for _ in 0..count {
            self.varint()?;
        }
        Some(())
    }

    fn length_prefixed(&mut self) -> Option<()> {
        let size = self.varint()?;
        self.take(size)?;
        Some(())
    }

    fn token(&mut self) -> Option<[u8; 8]> {
        self.take(8)?.try_into().ok()
    }

    fn ack(&mut self, has_ecn: bool) -> Option<()> {
        self.varints(2)?;
        let ranges = self.varint()?;
        self.varint()?;
        for _ in 0..ranges {
            self.varints(2)?;
        }
        self.varints(if has_ecn { 3 } else { 0 })
    }

    /// Read a STREAM frame. Returns true if it extends to the end of the payload.
    fn stream(&mut self, kind: u64) -> Option<bool> {
        self.varint()?;
        if kind & 0x04 != 0 {
            self.varint()?;
        }
        if kind & 0x02 != 0 {
            self.length_prefixed()?;
            return Some(false);
        }
        self.at = self.payload.len();
        Some(true)
    }

    fn new_connection_id(&mut self) -> Option<()> {
        self.varints(2)?;
        let size = self.take(1)?[0];
        self.take(u64::from(size) + 16)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_excludes_padding() {
        let mut payload = vec![0x02, 0x05, 0x00, 0x01, 0x00, 0x00, 0x00];
        payload.extend([0x1A, 1, 2, 3, 4, 5, 6, 7, 0]);
        let end = payload.len();
        payload.resize(1200, 0);
        let found = inspect(&payload).expect("known frames");
        assert_eq!(found.end, end);
        assert_eq!(found.challenges, [[1, 2, 3, 4, 5, 6, 7, 0]]);
        assert!(found.responses.is_empty());
    }

    #[test]
    fn every_frame_is_read_to_its_end() {
        let frames: &[&[u8]] = &[
            &[0x01],
            &[0x03, 1, 0, 0, 0, 1, 2, 3],
            &[0x04, 0x40, 0x00, 1, 2],
            &[0x05, 0, 1],
            &[0x06, 0, 2, 9, 9],
            &[0x07, 1, 9],
            &[0x0A, 4, 1, 9],
            &[0x0E, 4, 1, 1, 9],
            &[0x10, 1],
            &[0x11, 0, 1],
            &[0x12, 1],
            &[0x15, 0, 1],
            &[
                0x18, 1, 0, 1, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
            ],
            &[0x19, 1],
            &[0x1B, 8, 7, 6, 5, 4, 3, 2, 1],
            &[0x1C, 0, 0, 1, 9],
            &[0x1D, 0, 1, 9],
            &[0x1E],
            &[0x1F],
            &[0x40, 0xAF, 1, 2, 3, 4],
        ];
        for frame in frames {
            let mut payload = frame.repeat(2);
            payload.push(0);
            let found = inspect(&payload);
            assert_eq!(
                found.map(|found| found.end),
                Some(2 * frame.len()),
                "{frame:?}"
            );
            if frame.len() > 1 && !matches!(frame[0], 0x04 | 0x40) {
                assert_eq!(inspect(&frame[..frame.len() - 1]), None, "{frame:?}");
            }
        }
    }

    #[test]
    fn unknown_and_truncated_frames_are_refused() {
        for payload in [
            &[0x21][..],
            &[0x1A, 1, 2],
            &[0x06, 0, 9, 1],
            &[0xC0],
            &[0x02, 1, 0, 0xFF],
        ] {
            assert_eq!(inspect(payload), None, "{payload:?}");
        }
        let found = inspect(&[0x08, 4, 0, 0]).expect("a stream's bytes");
        assert!(found.is_open_ended && found.end == 4);
    }

    #[test]
    fn tokens_are_bounded() {
        let payload = [0x1B, 0, 0, 0, 0, 0, 0, 0, 0].repeat(100);
        let found = inspect(&payload).expect("known frames");
        assert_eq!(found.responses.len(), MAX_TOKENS);
    }
}
