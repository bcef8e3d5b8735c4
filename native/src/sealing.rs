//! 1-RTT packets whose length is decided after quinn-proto has made them.
//!
//! quinn-proto fills every datagram with a PATH_CHALLENGE or a PATH_RESPONSE up to 1,200 bytes, whatever may go to that
//! address (RFC 9000 section 8.2.1 wants them shorter where the anti-amplification limit forbids it). It does not know
//! either how long a ping should be so that whoever hears it at an address that it does not know may answer. So for
//! single packets the keys that quinn-proto is given leave the payload as it is and remember what is to be done: the
//! packet is cut or filled, and then sealed, once, when it is known where it goes.
//!
//! Here are also the two looks into payloads that show whether an address has answered a challenge: quinn-proto does not say.

use std::any::Any;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::BytesMut;
use quinn_proto::crypto::{
    ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey,
    ServerConfig, Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};

use crate::frames::{look, Found};

/// Bytes from the start of a packet number to the end of what header protection samples (RFC 9001 section 5.4.2).
const SAMPLED: usize = 4 + 16;

/// What the keys of a connection do, and what they have seen.
#[derive(Default)]
pub struct Sealing {
    is_late: AtomicBool,
    is_watching: AtomicBool,
    state: Mutex<State>,
    header: OnceLock<Box<dyn HeaderKey>>,
}

#[derive(Default)]
struct State {
    packet: Option<Unsealed>,
    responses: Vec<[u8; 8]>,
}

/// A packet that is not protected yet.
pub struct Unsealed {
    number: u64,
    header_len: usize,
    /// Of the whole packet, its tag included.
    size: usize,
    key: Arc<dyn PacketKey>,
}

impl Sealing {
    /// From now on packets are not sealed.
    pub fn begin(&self) {
        self.is_late.store(true, Relaxed);
    }

    /// From now on they are again; the one that was not, if there was any. It is at the end of the datagram.
    pub fn end(&self) -> Option<Unsealed> {
        self.is_late.store(false, Relaxed);
        self.state().packet.take()
    }

    /// Whether answers to challenges are looked for in what comes.
    pub fn watch(&self, is_watching: bool) {
        self.is_watching.store(is_watching, Relaxed);
    }

    /// Those that came since the last time.
    pub fn responses(&self) -> Vec<[u8; 8]> {
        mem::take(&mut self.state().responses)
    }

    /// Protect a packet at the end of `datagram`, which is cut, or filled with padding, to `size` bytes.
    pub fn seal(&self, packet: Unsealed, datagram: &mut Vec<u8>, size: usize) {
        let start = datagram.len() - packet.size;
        let tag = packet.key.tag_len();
        datagram.truncate(datagram.len().min(size) - tag);
        datagram.resize(size, 0);
        let sealed = &mut datagram[start..];
        let numbered = packet.header_len - number_len(sealed);
        packet.key.encrypt(packet.number, sealed, packet.header_len);
        if let Some(header) = self.header.get() {
            header.encrypt(numbered, sealed);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unsealed {
    /// What is in it, and how long `datagram` has to be at least; None when that cannot be told.
    pub fn look(&self, datagram: &[u8]) -> Option<(Found, usize)> {
        let start = datagram.len() - self.size;
        let packet = &datagram[start..];
        let tag = self.key.tag_len();
        let found = look(packet.get(self.header_len..self.size - tag)?)?;
        let numbered = self.header_len - number_len(packet);
        let least = (self.header_len + found.end + tag).max(numbered + SAMPLED);
        Some((found, (start + least).min(datagram.len())))
    }
}

/// How long the packet number of an unprotected packet is.
fn number_len(packet: &[u8]) -> usize {
    usize::from(packet[0] & 3) + 1
}

/// A side's TLS configuration for one connection, whose 1-RTT keys do as they are told.
pub struct Sealed<C> {
    /// What does the work.
    pub inner: Arc<C>,
    /// Shared with the connection.
    pub sealing: Arc<Sealing>,
}

impl<C: ServerConfig> ServerConfig for Sealed<C> {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.inner.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, original: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, original, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        ours: &TransportParameters,
    ) -> Box<dyn Session> {
        let inner = self.inner.clone().start_session(version, ours);
        SealedSession::of(inner, self.sealing.clone())
    }
}

impl<C: ClientConfig> ClientConfig for Sealed<C> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        ours: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = self.inner.clone().start_session(version, name, ours)?;
        Ok(SealedSession::of(inner, self.sealing.clone()))
    }
}

struct SealedSession {
    inner: Box<dyn Session>,
    sealing: Arc<Sealing>,
    /// The first keys that a handshake brings are its own, the second those of 1-RTT packets.
    has_handshake_keys: bool,
}

impl SealedSession {
    fn of(inner: Box<dyn Session>, sealing: Arc<Sealing>) -> Box<dyn Session> {
        Box::new(Self {
            inner,
            sealing,
            has_handshake_keys: false,
        })
    }

    fn wrapped(&self, keys: KeyPair<Box<dyn PacketKey>>) -> KeyPair<Box<dyn PacketKey>> {
        let wrap = |key: Box<dyn PacketKey>| {
            Box::new(SealedPacketKey {
                inner: Arc::from(key),
                sealing: self.sealing.clone(),
            }) as Box<dyn PacketKey>
        };
        KeyPair {
            local: wrap(keys.local),
            remote: wrap(keys.remote),
        }
    }
}

impl Session for SealedSession {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, data: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(data)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buffer: &mut Vec<u8>) -> Option<Keys> {
        let keys = self.inner.write_handshake(buffer)?;
        if !mem::replace(&mut self.has_handshake_keys, true) {
            return Some(keys);
        }
        let KeyPair { local, remote } = keys.header;
        let _ = self.sealing.header.set(local);
        let local = Box::new(SealedHeaderKey {
            sealing: self.sealing.clone(),
        });
        Some(Keys {
            header: KeyPair { local, remote },
            packet: self.wrapped(keys.packet),
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.inner.next_1rtt_keys()?;
        Some(self.wrapped(keys))
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

struct SealedPacketKey {
    inner: Arc<dyn PacketKey>,
    sealing: Arc<Sealing>,
}

impl PacketKey for SealedPacketKey {
    fn encrypt(&self, number: u64, packet: &mut [u8], header_len: usize) {
        if !self.sealing.is_late.load(Relaxed) {
            self.inner.encrypt(number, packet, header_len);
            return;
        }
        self.sealing.state().packet = Some(Unsealed {
            number,
            header_len,
            size: packet.len(),
            key: self.inner.clone(),
        });
    }

    fn decrypt(
        &self,
        number: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.inner.decrypt(number, header, payload)?;
        if self.sealing.is_watching.load(Relaxed) {
            if let Some(found) = look(payload) {
                self.sealing.state().responses.extend(found.responses);
            }
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

/// The local header key of 1-RTT packets; it does nothing to a packet that is not sealed yet.
struct SealedHeaderKey {
    sealing: Arc<Sealing>,
}

impl HeaderKey for SealedHeaderKey {
    fn decrypt(&self, offset: usize, packet: &mut [u8]) {
        if let Some(key) = self.sealing.header.get() {
            key.decrypt(offset, packet);
        }
    }

    fn encrypt(&self, offset: usize, packet: &mut [u8]) {
        let is_late = self.sealing.is_late.load(Relaxed);
        if let Some(key) = self.sealing.header.get().filter(|_| !is_late) {
            key.encrypt(offset, packet);
        }
    }

    fn sample_size(&self) -> usize {
        self.sealing
            .header
            .get()
            .map_or(16, |key| key.sample_size())
    }
}
