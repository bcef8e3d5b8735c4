//! Events and statistics of connections.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::ConnectionError;

/// Cause of the end of a connection: `CloseCause` on the Python side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Cause {
    Local,
    Peer,
    Timeout,
    Reset,
    Handshake,
    Protocol,
    Internal,
}

/// An event of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    Connected {
        /// The address of the peer.
        address: SocketAddr,
    },
    Data {
        stream: u64,
        chunks: Vec<Bytes>,
        end: bool,
    },
    Reset {
        stream: u64,
        code: u64,
    },
    Stopped {
        stream: u64,
        code: u64,
    },
    Writable {
        stream: u64,
    },
    StreamsAvailable,
    Closed {
        cause: Cause,
        code: u64,
        reason: Vec<u8>,
    },
    /// A panic ended a connection that the caller did not know of yet.
    Fault {
        /// Location of the panic in the source.
        location: String,
    },
    /// Nothing is left of the connection; its number is never used again.
    Gone,
}

/// See `Stats` on the Python side.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Stats {
    pub rtt: f64,
    pub congestion_window: u64,
    pub bytes_in_flight: u64,
    pub datagram_size: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub packets_sent: u64,
    pub packets_received: u64,
    pub packets_lost: u64,
    pub packets_acked: u64,
    pub streams_open: usize,
    pub last_heard: Instant,
}

/// Convert quinn-proto's error to cause, code and reason.
pub fn cause_of(error: ConnectionError) -> (Cause, u64, Vec<u8>) {
    match error {
        ConnectionError::TransportError(error) => {
            // Including INTERNAL_ERROR, quinn-proto's code for a peer that leaves too many gaps.
            (
                Cause::Protocol,
                error.code.into(),
                error.reason.into_bytes(),
            )
        }
        ConnectionError::ConnectionClosed(close) => {
            (Cause::Peer, close.error_code.into(), close.reason.to_vec())
        }
        ConnectionError::ApplicationClosed(close) => {
            (Cause::Peer, close.error_code.into(), close.reason.to_vec())
        }
        ConnectionError::VersionMismatch => (Cause::Protocol, 0, Vec::new()),
        ConnectionError::Reset => (Cause::Reset, 0, b"The peer forgot this connection".into()),
        ConnectionError::TimedOut => (Cause::Timeout, 0, Vec::new()),
        ConnectionError::LocallyClosed => (Cause::Local, 0, Vec::new()),
        ConnectionError::CidsExhausted => (Cause::Internal, 0, Vec::new()),
    }
}

/// One write to the socket: datagrams of `segment` bytes, of which only the last may be shorter.
pub struct Outgoing {
    /// The datagrams, back to back.
    pub data: Vec<u8>,
    /// The size of each.
    pub segment: usize,
    /// The destination.
    pub address: SocketAddr,
}
