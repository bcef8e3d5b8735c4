//! Connection IDs with an HMAC: random, and recognised by the holder of the key, also after a restart.
//!
//! An edge that was restarted answers packets of unknown connections with stateless resets. It does so only for IDs that
//! it issued. Otherwise anybody could exhaust its limit on resets, and collect the reset tokens of IDs that are issued
//! later (RFC 9000 section 21.11).

use std::time::Duration;

use aws_lc_rs::hmac;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::config::random;

/// Random bytes: no ID is issued twice under one key (RFC 9000 section 10.3.2).
const NONCE: usize = 8;
/// Bytes of the HMAC.
const TAG: usize = 4;

/// Issues connection IDs, and recognises those that were issued with the same key.
pub struct HmacCidGenerator {
    key: hmac::Key,
    prefix: Option<u8>,
}

impl HmacCidGenerator {
    /// Derive a key from `secret`. Each ID begins with the byte `prefix`, if there is one.
    pub fn new(secret: &hmac::Key, prefix: Option<u8>) -> Self {
        let key = hmac::sign(secret, b"quictunnel connection ids");
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()),
            prefix,
        }
    }
}

impl ConnectionIdGenerator for HmacCidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut nonce: [u8; NONCE] = random().expect("the system gives no randomness");
        nonce[0] = self.prefix.unwrap_or(nonce[0]);
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
    fn only_ids_of_the_same_key_are_recognised() {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let other = hmac::Key::new(hmac::HMAC_SHA256, b"other");
        let generator = HmacCidGenerator::new(&secret, None);
        let id = HmacCidGenerator::new(&secret, Some(7)).generate_cid();
        assert_eq!(id[0], 7);
        assert!(generator.validate(&id).is_ok());
        assert!(HmacCidGenerator::new(&other, None).validate(&id).is_err());
        let mut changed = id.to_vec();
        changed[0] ^= 1;
        for foreign in [&changed[..], &id[..7], &[], &id[..11]] {
            let foreign = ConnectionId::new(foreign);
            assert!(generator.validate(&foreign).is_err());
        }
    }
}
