//! Our connection IDs: random, and recognised by whoever has the key, also after a restart.
//!
//! An edge that lost its memory answers packets of connections it does not know with stateless resets. It does so
//! only for IDs that it made: else anybody could spend its allowance of resets, and collect the reset tokens of
//! IDs that are yet to be given out (RFC 9000 section 21.11).

use std::time::Duration;

use aws_lc_rs::hmac;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::config::random;

/// Random bytes: none is ever given out twice under one key (RFC 9000 section 10.3.2).
const NONCE: usize = 8;
/// Bytes that only the key could have made.
const TAG: usize = 4;

/// See the module.
pub struct Recognised {
    key: hmac::Key,
    mark: Option<u8>,
}

impl Recognised {
    /// With a key of its own, made from `secret`. All that it gives out begin with `mark`.
    pub fn new(secret: &hmac::Key, mark: Option<u8>) -> Self {
        let key = hmac::sign(secret, b"quictunnel connection ids");
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()),
            mark,
        }
    }
}

impl ConnectionIdGenerator for Recognised {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut nonce: [u8; NONCE] = random().expect("the system gives no randomness");
        nonce[0] = self.mark.unwrap_or(nonce[0]);
        let mut id = [0; NONCE + TAG];
        id[..NONCE].copy_from_slice(&nonce);
        id[NONCE..].copy_from_slice(&hmac::sign(&self.key, &nonce).as_ref()[..TAG]);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let (nonce, tag) = id.split_at_checked(NONCE).ok_or(InvalidCid)?;
        match hmac::sign(&self.key, nonce).as_ref()[..TAG] == *tag {
            true => Ok(()),
            false => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        NONCE + TAG
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_key_made_is_recognised() {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let other = hmac::Key::new(hmac::HMAC_SHA256, b"other");
        let recognised = Recognised::new(&secret, None);
        let id = Recognised::new(&secret, Some(7)).generate_cid();
        assert_eq!(id[0], 7);
        assert!(recognised.validate(&id).is_ok());
        assert!(Recognised::new(&other, None).validate(&id).is_err());
        let mut bent = id.to_vec();
        bent[0] ^= 1;
        for strange in [&bent[..], &id[..7], &[], &id[..11]] {
            let strange = ConnectionId::new(strange);
            assert!(recognised.validate(&strange).is_err());
        }
    }
}
