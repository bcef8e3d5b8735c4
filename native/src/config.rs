//! quinn-proto's and rustls' configuration, from the engine's settings.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, ConnectionId, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, ServerConfig, TransportConfig, ValidationTokenConfig, VarInt,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::RootCertStore;

use crate::cid_generator::HmacCidGenerator;
use crate::congestion::{Congestion, SendState, TrackedFactory};
use crate::pinned_verifier::{PinnedVerifier, FINGERPRINT};
use crate::sealing::{LateSealing, Sealing};

/// Packets acknowledged after a packet before it counts as lost: so many that time alone decides.
const PACKET_THRESHOLD: u32 = 10_000;
/// Round trips after which a packet counts as lost when a later one was acknowledged (RFC 9002 section 6.1.2). With the
/// RFC's 9/8, 10 ms of reordering on a path of 50 ms leave CUBIC a hundredth of the rate; with this, most of it.
const CUBIC_TIME_THRESHOLD: f32 = 1.5;
/// BBR does not slow down for a spurious loss, so retransmission need not wait as long; with 9/8, a tenth of the traffic
/// on such a path is sent twice.
const BBR_TIME_THRESHOLD: f32 = 1.25;
/// The round trip before the first sample. RFC 9002's 333 ms delay the second attempt of a handshake by a second, and the
/// fourth by fifteen. On longer paths this value costs a few spurious retransmissions.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// A peer acknowledges at once when a packet is out of order by this many; otherwise after `ack_delay`.
const ACK_REORDERING_THRESHOLD: u32 = 10;

/// The limits of a connection, as in `EngineSettings` on the Python side.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bidirectional streams that the peer may have open.
    pub streams: u64,
    /// Bytes ahead of delivery on one stream.
    pub stream_window: u64,
    /// Bytes ahead of delivery on all streams.
    pub connection_window: u64,
}

/// The settings of an engine; see `EngineSettings` on the Python side for the meanings.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Settings {
    pub is_server: bool,
    pub alpn: Vec<u8>,
    /// PEM, leaf first; of a server.
    pub certificate: Vec<u8>,
    /// PEM; of a server.
    pub private_key: Vec<u8>,
    /// DER certificates that a client trusts.
    pub authorities: Vec<Vec<u8>>,
    /// SHA-256 of the authority that a client trusts instead of `authorities`; empty without one.
    pub pin: Vec<u8>,
    pub idle_timeout: f64,
    pub handshake_timeout: f64,
    pub max_unadmitted: usize,
    pub eviction_code: u64,
    pub retry: bool,
    pub ack_delay: f64,
    pub reset_key: Vec<u8>,
    pub unadmitted: Limits,
    pub trusted: Limits,
    pub first_window: u64,
    pub send_buffer: usize,
    /// Path MTU discovery looks for datagrams up to this size.
    pub largest_datagram: u16,
    pub max_probe_timeout: f64,
    pub key_update_packets: u64,
    pub congestion: Congestion,
    /// The first byte of every connection ID that is issued.
    pub cid_prefix: Option<u8>,
}

/// The settings in the form in which connections need them.
pub struct Config {
    /// As given.
    pub settings: Settings,
    /// For `Endpoint::new`.
    pub endpoint: Arc<EndpointConfig>,
    server: Option<(ServerConfig, Arc<QuicServerConfig>)>,
    client: Option<Arc<QuicClientConfig>>,
}

/// A sentence about a setting that cannot be used.
pub type SettingsError = String;

impl Config {
    /// Read certificates and keys.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let endpoint = Arc::new(endpoint(&settings)?);
        let (server, client) = if settings.is_server {
            (Some(server(&settings)?), None)
        } else {
            (None, Some(client(&settings)?))
        };
        Ok(Self {
            settings,
            endpoint,
            server,
            client,
        })
    }

    /// Return the server configuration of `Endpoint::new`, by which it decides on Initial packets.
    pub fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.server.clone().map(|(config, _)| Arc::new(config))
    }

    /// Return the configuration of one accepted connection, with the limits of an unadmitted peer.
    pub fn accept_config(
        &self,
        send_state: Arc<SendState>,
        sealing: Arc<Sealing>,
    ) -> Option<Arc<ServerConfig>> {
        let (mut config, inner) = self.server.clone()?;
        config.crypto = Arc::new(LateSealing { inner, sealing });
        config.transport_config(Arc::new(
            self.transport(self.settings.unadmitted, send_state),
        ));
        Some(Arc::new(config))
    }

    /// Return the configuration of one outgoing connection, whose first destination connection ID is `first`.
    pub fn connect_config(
        &self,
        send_state: Arc<SendState>,
        sealing: Arc<Sealing>,
        first: ConnectionId,
    ) -> Option<ClientConfig> {
        let inner = self.client.clone()?;
        let mut config = ClientConfig::new(Arc::new(LateSealing { inner, sealing }));
        config.initial_dst_cid_provider(Arc::new(move || first));
        config.transport_config(Arc::new(self.transport(self.settings.trusted, send_state)));
        Some(config)
    }

    fn transport(&self, limits: Limits, send_state: Arc<SendState>) -> TransportConfig {
        let settings = &self.settings;
        let mut transport = TransportConfig::default();
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(settings.largest_datagram);
        let mut acks = AckFrequencyConfig::default();
        acks.max_ack_delay(Duration::try_from_secs_f64(settings.ack_delay).ok())
            .reordering_threshold(VarInt::from_u32(ACK_REORDERING_THRESHOLD));
        transport
            .max_concurrent_bidi_streams(varint(limits.streams))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            // quinn-proto cannot raise it later; until a peer is admitted, the connection's window is the limit.
            .stream_receive_window(varint(settings.trusted.stream_window))
            .receive_window(varint(limits.connection_window))
            .send_fairness(true)
            // Loss is detected by time, as TCP's RACK does (RFC 8985 section 6.2), not by three packets, which are
            // nothing at today's rates.
            .packet_threshold(PACKET_THRESHOLD)
            .time_threshold(match settings.congestion {
                Congestion::Cubic => CUBIC_TIME_THRESHOLD,
                Congestion::Bbr => BBR_TIME_THRESHOLD,
            })
            .max_idle_timeout(idle(settings.idle_timeout))
            .initial_mtu(1200)
            .initial_rtt(INITIAL_RTT)
            .mtu_discovery_config(Some(discovery))
            .ack_frequency_config(Some(acks))
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(None)
            .congestion_controller_factory(Arc::new(TrackedFactory {
                congestion: settings.congestion,
                state: send_state,
            }));
        transport
    }
}

/// Convert a number to a QUIC varint; a larger one becomes the maximum.
pub fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

fn idle(seconds: f64) -> Option<IdleTimeout> {
    IdleTimeout::try_from(Duration::try_from_secs_f64(seconds).ok()?).ok()
}

fn endpoint(settings: &Settings) -> Result<EndpointConfig, SettingsError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &settings.reset_key);
    let mut config = EndpointConfig::new(Arc::new(key.clone()));
    let prefix = settings.cid_prefix;
    config
        .cid_generator(move || Box::new(HmacCidGenerator::new(&key, prefix)))
        // The engine limits them: quinn-proto would send one and drop those of all other peers for a while.
        .min_reset_interval(Duration::ZERO)
        .supported_versions(vec![1])
        .max_udp_payload_size(settings.largest_datagram.max(1472))
        .map_err(|error| format!("largest_datagram cannot be used: {error}"))?;
    Ok(config)
}

fn server(settings: &Settings) -> Result<(ServerConfig, Arc<QuicServerConfig>), SettingsError> {
    let chain = certificates(&settings.certificate)?;
    if chain.is_empty() {
        return Err("there is no certificate in the file".into());
    }
    let key = PrivateKeyDer::from_pem_slice(&settings.private_key)
        .map_err(|error| format!("there is no usable private key in the file: {error}"))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| format!("the certificate and the key do not work together: {error}"))?;
    tls.alpn_protocols = vec![settings.alpn.clone()];
    tls.max_early_data_size = 0;
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    let crypto = Arc::new(QuicServerConfig::try_from(tls).map_err(|error| error.to_string())?);
    // Retry tokens live for seconds, so a key per process is enough.
    let token_key =
        hkdf::Salt::new(hkdf::HKDF_SHA256, &settings.reset_key).extract(&random::<32>()?);
    let mut config = ServerConfig::new(crypto.clone(), Arc::new(token_key));
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    config.validation_token_config(tokens).migration(true);
    Ok((config, crypto))
}

fn client(settings: &Settings) -> Result<Arc<QuicClientConfig>, SettingsError> {
    let provider = provider();
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?;
    let mut tls = if settings.pin.is_empty() {
        builder.with_root_certificates(roots(settings)?)
    } else {
        let pin: [u8; FINGERPRINT] = settings.pin[..]
            .try_into()
            .map_err(|_| format!("the fingerprint must have {FINGERPRINT} bytes"))?;
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedVerifier::new(pin, provider)))
    }
    .with_no_client_auth();
    tls.alpn_protocols = vec![settings.alpn.clone()];
    tls.enable_early_data = false;
    tls.resumption = rustls::client::Resumption::disabled();
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    Ok(Arc::new(crypto))
}

fn roots(settings: &Settings) -> Result<RootCertStore, SettingsError> {
    let mut roots = RootCertStore::empty();
    let (usable, _) =
        roots.add_parsable_certificates(settings.authorities.iter().cloned().map(Into::into));
    if usable == 0 {
        return Err("there is no usable certificate in it".into());
    }
    Ok(roots)
}

/// Return the certificates of a PEM file, as DER.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is not PEM: {error}"))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Return random bytes from the operating system.
pub fn random<const SIZE: usize>() -> Result<[u8; SIZE], SettingsError> {
    let mut bytes = [0; SIZE];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system gives no randomness".to_string())?;
    Ok(bytes)
}
