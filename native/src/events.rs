//! What a connection tells, and what can be asked about it.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::ConnectionError;

/// Why a connection is over, by the names of the seam.
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

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    Connected {
        /// Where the peer is.
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
    /// A fault inside ended what nobody had been told of yet; where it was.
    Fault {
        place: String,
    },
    /// Nothing is left of it; its number is never used again.
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

/// quinn-proto's reason in the words of the seam, with its code and text.
pub fn cause_of(lost: ConnectionError) -> (Cause, u64, Vec<u8>) {
    match lost {
        ConnectionError::TransportError(error) => {
            // Also INTERNAL_ERROR, which is what quinn-proto says of a peer that leaves too many gaps.
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

/// One write to the socket: datagrams of `segment` bytes, only the last may be shorter.
pub struct Outgoing {
    /// The datagrams, back to back.
    pub data: Vec<u8>,
    /// The size of each.
    pub segment: usize,
    /// Where to.
    pub address: SocketAddr,
}
