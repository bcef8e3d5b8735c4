//! Late sealing: 1-RTT packets whose size is decided after quinn-proto has built them.
//!
//! quinn-proto pads every datagram with a PATH_CHALLENGE or a PATH_RESPONSE to 1,200 bytes, also where the
//! anti-amplification limit forbids it (RFC 9000 section 8.2.1 wants it shorter then). Nor can it pad a PING so that a peer
//! which does not know the sender's address may answer. So the keys that quinn-proto is given can leave a single packet
//! unprotected. The packet is then cut or padded, and sealed once its destination is known.
//!
//! The same keys read PATH_CHALLENGE and PATH_RESPONSE frames, because quinn-proto does not report path validation.

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

use crate::frames::{inspect, Found};

/// Bytes from the start of the packet number to the end of the header protection sample (RFC 9001 section 5.4.2).
const MIN_SAMPLED: usize = 4 + 16;

/// State shared between a connection and its keys.
#[derive(Default)]
pub struct Sealing {
    is_deferred: AtomicBool,
    is_watching: AtomicBool,
    state: Mutex<State>,
    header: OnceLock<Box<dyn HeaderKey>>,
}

#[derive(Default)]
struct State {
    packet: Option<Unsealed>,
    responses: Vec<[u8; 8]>,
}

/// A packet that is not sealed yet.
pub struct Unsealed {
    number: u64,
    header_len: usize,
    /// Of the whole packet, including the tag.
    size: usize,
    key: Arc<dyn PacketKey>,
}

impl Sealing {
    /// Leave the next packet unsealed.
    pub fn defer(&self) {
        self.is_deferred.store(true, Relaxed);
    }

    /// Seal packets again. Returns the unsealed packet, if there is one; it is at the end of the datagram.
    pub fn take_unsealed(&self) -> Option<Unsealed> {
        self.is_deferred.store(false, Relaxed);
        self.state().packet.take()
    }

    /// Set whether received packets are searched for PATH_RESPONSE frames.
    pub fn watch(&self, is_watching: bool) {
        self.is_watching.store(is_watching, Relaxed);
    }

    /// Return the PATH_RESPONSE data received since the last call.
    pub fn responses(&self) -> Vec<[u8; 8]> {
        mem::take(&mut self.state().responses)
    }

    /// Seal a packet at the end of `datagram`, which is cut or padded to `size` bytes.
    pub fn seal(&self, packet: Unsealed, datagram: &mut Vec<u8>, size: usize) {
        let start = datagram.len() - packet.size;
        let tag = packet.key.tag_len();
        datagram.truncate(datagram.len().min(size) - tag);
        datagram.resize(size, 0);
        let sealed = &mut datagram[start..];
        let pn_offset = packet.header_len - pn_len(sealed);
        packet.key.encrypt(packet.number, sealed, packet.header_len);
        if let Some(header) = self.header.get() {
            header.encrypt(pn_offset, sealed);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unsealed {
    /// Return the frames of interest, and the smallest size of `datagram`; None if a frame is unknown.
    pub fn inspect(&self, datagram: &[u8]) -> Option<(Found, usize)> {
        let start = datagram.len() - self.size;
        let packet = &datagram[start..];
        let tag = self.key.tag_len();
        let found = inspect(packet.get(self.header_len..self.size - tag)?)?;
        let pn_offset = self.header_len - pn_len(packet);
        let min_size = (self.header_len + found.end + tag).max(pn_offset + MIN_SAMPLED);
        Some((found, (start + min_size).min(datagram.len())))
    }
}

/// Return the length of the packet number of an unprotected packet.
fn pn_len(packet: &[u8]) -> usize {
    usize::from(packet[0] & 3) + 1
}

/// The TLS configuration of one connection, whose 1-RTT keys can defer sealing.
pub struct LateSealing<C> {
    /// The real configuration.
    pub inner: Arc<C>,
    /// Shared with the connection.
    pub sealing: Arc<Sealing>,
}

impl<C: ServerConfig> ServerConfig for LateSealing<C> {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.inner.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, original: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, original, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn Session> {
        let inner = self.inner.clone().start_session(version, parameters);
        LateSealingSession::of(inner, self.sealing.clone())
    }
}

impl<C: ClientConfig> ClientConfig for LateSealing<C> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = self
            .inner
            .clone()
            .start_session(version, name, parameters)?;
        Ok(LateSealingSession::of(inner, self.sealing.clone()))
    }
}

struct LateSealingSession {
    inner: Box<dyn Session>,
    sealing: Arc<Sealing>,
    /// The first keys of a handshake are for Handshake packets, the second for 1-RTT packets.
    has_handshake_keys: bool,
}

impl LateSealingSession {
    fn of(inner: Box<dyn Session>, sealing: Arc<Sealing>) -> Box<dyn Session> {
        Box::new(Self {
            inner,
            sealing,
            has_handshake_keys: false,
        })
    }

    fn wrapped(&self, keys: KeyPair<Box<dyn PacketKey>>) -> KeyPair<Box<dyn PacketKey>> {
        let wrap = |key: Box<dyn PacketKey>| {
            Box::new(LateSealingPacketKey {
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

impl Session for LateSealingSession {
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
        let local = Box::new(LateSealingHeaderKey {
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

struct LateSealingPacketKey {
    inner: Arc<dyn PacketKey>,
    sealing: Arc<Sealing>,
}

impl PacketKey for LateSealingPacketKey {
    fn encrypt(&self, number: u64, packet: &mut [u8], header_len: usize) {
        if !self.sealing.is_deferred.load(Relaxed) {
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
            if let Some(found) = inspect(payload) {
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

/// The local header key of 1-RTT packets; it leaves an unsealed packet alone.
struct LateSealingHeaderKey {
    sealing: Arc<Sealing>,
}

impl HeaderKey for LateSealingHeaderKey {
    fn decrypt(&self, offset: usize, packet: &mut [u8]) {
        if let Some(key) = self.sealing.header.get() {
            key.decrypt(offset, packet);
        }
    }

    fn encrypt(&self, offset: usize, packet: &mut [u8]) {
        let is_deferred = self.sealing.is_deferred.load(Relaxed);
        if let Some(key) = self.sealing.header.get().filter(|_| !is_deferred) {
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
