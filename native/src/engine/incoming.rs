//! Incoming datagrams: routing them to connections, and answering unknown peers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{DatagramEvent, Incoming};

use super::unadmitted::Entry;
use super::Engine;
use crate::congestion::SendState;
use crate::connection::{Connection, ConnectionParts};
use crate::events::{Cause, Outgoing};
use crate::panic::catch_panic;
use crate::sealing::Sealing;

/// Replies that wait for the next transmit; one read of the socket causes no more than this.
const MAX_REPLIES: usize = 2048;
/// A shorter datagram is neither a packet nor a stateless reset (RFC 9000 section 10.3).
const MIN_DATAGRAM: usize = 21;

impl Engine {
    /// Process a datagram. Returns the key of its connection, if there is one.
    pub(super) fn dispatch(
        &mut self,
        datagram: BytesMut,
        address: SocketAddr,
        now: Instant,
    ) -> Option<usize> {
        if datagram.len() < MIN_DATAGRAM {
            self.counters.datagrams_dropped += 1;
            return None;
        }
        let is_long = datagram[0] & 0x80 != 0;
        let size = datagram.len();
        let mut reply = Vec::new();
        let retry = is_retry(&datagram).then(|| datagram.to_vec());
        let endpoint = &mut self.endpoint;
        let event = catch_panic(|| endpoint.handle(now, address, None, None, datagram, &mut reply));
        match event {
            Ok(Some(DatagramEvent::ConnectionEvent(handle, event))) => {
                let mut is_taken = false;
                self.with_connection(handle.0, |connection, _| {
                    let is_authentic = retry.is_none_or(|retry| connection.is_valid_retry(&retry));
                    if is_authentic && may_migrate_to(connection, address) {
                        is_taken = true;
                        connection.on_datagram(event, is_long, address, size);
                    }
                });
                return is_taken.then_some(handle.0);
            }
            Ok(Some(DatagramEvent::NewConnection(incoming))) => {
                self.on_new_connection(incoming, size, now)
            }
            // A client does not answer unknown peers.
            Ok(Some(DatagramEvent::Response(_))) if !self.config.settings.is_server => {}
            Ok(Some(DatagramEvent::Response(_))) => {
                if !is_long {
                    if !self.reset_limiter.try_take(self.clock.seconds(now)) {
                        return None;
                    }
                    self.counters.resets_sent += 1;
                } else if reply.get(1..5) == Some(&[0; 4]) {
                    self.counters.version_negotiations_sent += 1;
                }
                self.reply(reply, address);
            }
            Ok(None) => self.counters.datagrams_dropped += 1,
            Err(location) => self.report_panic(location),
        }
        None
    }

    /// Answer a valid first packet of a new peer, in a datagram of `size` bytes: accept, Retry or ignore.
    fn on_new_connection(&mut self, incoming: Incoming, size: usize, now: Instant) {
        let address = incoming.remote_address();
        let mut reply = Vec::new();
        if self.config.settings.retry && !incoming.remote_address_validated() {
            match self.endpoint.retry(incoming, &mut reply) {
                Ok(_) => {
                    self.counters.retries_sent += 1;
                    self.reply(reply, address);
                }
                Err(refused) => self.endpoint.ignore(refused.into_incoming()),
            }
            return;
        }
        let validated = incoming.remote_address_validated().then(|| address.ip());
        match self.unadmitted.enter(self.next_number, validated, now) {
            Entry::Taken => {}
            Entry::Replaces(number) => self.replace(number),
            Entry::Refused => {
                self.counters.half_open_refused += 1;
                self.endpoint.ignore(incoming);
                return;
            }
        }
        self.counters.handshakes_begun += 1;
        let (send_state, sealing) = (Arc::new(SendState::default()), Arc::new(Sealing::default()));
        let config = self
            .config
            .accept_config(send_state.clone(), sealing.clone());
        let endpoint = &mut self.endpoint;
        let accepted = catch_panic(|| {
            endpoint
                .accept(incoming, now, &mut reply, config)
                .map_err(|error| error.response.is_some())
        });
        match accepted {
            Ok(Ok((handle, quic))) => {
                let parts = ConnectionParts {
                    quic,
                    send_state,
                    sealing,
                    unvalidated_bytes: validated.is_none().then_some(size),
                };
                self.register(handle, parts, now);
            }
            Ok(Err(has_answer)) => {
                self.release_number();
                self.counters.connections_failed += 1;
                if has_answer {
                    self.reply(reply, address);
                }
            }
            Err(location) => {
                self.release_number();
                self.report_panic(location);
            }
        }
    }

    /// Release the number of a handshake that failed with its first packet. Its place stays taken for a while.
    fn release_number(&mut self) {
        self.unadmitted.leave(self.next_number);
        self.next_number += 1;
    }

    /// Close the connection of an unadmitted peer, because another peer gets its place.
    fn replace(&mut self, number: u64) {
        self.counters.unadmitted_evicted += 1;
        let Some(key) = self.numbers.get(&number).copied() else {
            return;
        };
        let code = self.config.settings.eviction_code;
        self.with_connection(key, |connection, _| {
            connection.is_evicted = true;
            connection.close(Cause::Local, code, b"The server is at capacity".into());
        });
        self.process(key);
        self.queue_to_send(key);
    }

    fn reply(&mut self, data: Vec<u8>, address: SocketAddr) {
        if self.replies.len() < MAX_REPLIES {
            self.replies.push_back(Outgoing {
                segment: data.len(),
                data,
                address,
            });
        }
    }
}

/// Return true for a Retry packet (RFC 9000 section 17.2.5).
fn is_retry(datagram: &[u8]) -> bool {
    datagram[0] & 0xF0 == 0xF0 && datagram.get(1..5) == Some(&[0, 0, 0, 1])
}

/// Return false if a public peer would move to a private address: that is request forgery (RFC 9000 section 21.5.6).
fn may_migrate_to(connection: &Connection, address: SocketAddr) -> bool {
    let current = connection.address();
    address.ip() == current.ip() || is_public(address.ip()) || !is_public(current.ip())
}

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_documentation()
                || a == 0
                || a >= 224
                || (a == 100 && b & 0xC0 == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && b & 0xFE == 18))
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || first & 0xFE00 == 0xFC00
                || first & 0xFFC0 == 0xFE80
                || (first == 0x2001 && v6.segments()[1] == 0x0DB8))
        }
    }
}
