//! The calls for one connection. If it is gone they do nothing and return None.

use std::net::SocketAddr;

use bytes::Bytes;
use quinn_proto::Side;

use super::Engine;
use crate::connection::Connection;
use crate::events::{Cause, Stats};

impl Engine {
    /// See [`Connection::open`].
    pub fn open(&mut self, number: u64) -> Option<u64> {
        self.call(number, Connection::open).flatten()
    }

    /// Queue as many bytes as there is room for; `data` is called with exactly that number.
    pub fn write(
        &mut self,
        number: u64,
        stream: u64,
        offered: usize,
        data: impl FnOnce(usize) -> Bytes,
    ) -> usize {
        self.call(number, |connection| {
            let room = connection.room(stream, offered);
            if room > 0 {
                connection.write(stream, data(room));
            }
            room
        })
        .unwrap_or(0)
    }

    /// See [`Connection::finish`].
    pub fn finish(&mut self, number: u64, stream: u64) {
        self.call(number, |connection| connection.finish(stream));
    }

    /// See [`Connection::reset`].
    pub fn reset(&mut self, number: u64, stream: u64, code: u64) {
        self.call(number, |connection| connection.reset(stream, code));
    }

    /// See [`Connection::stop`].
    pub fn stop(&mut self, number: u64, stream: u64, code: u64) {
        self.call(number, |connection| connection.stop(stream, code));
    }

    /// See [`Connection::prioritise`].
    pub fn prioritise(&mut self, number: u64, stream: u64) {
        self.call(number, |connection| connection.prioritise(stream));
    }

    /// See [`Connection::admit`].
    pub fn admit(&mut self, number: u64) {
        let (trusted, first) = {
            let settings = &self.config.settings;
            (settings.trusted, settings.first_window)
        };
        self.unadmitted.admit(number);
        self.call(number, |connection| connection.admit(trusted, first));
    }

    /// See [`Connection::ping`].
    pub fn ping(&mut self, number: u64) {
        self.call(number, Connection::ping);
    }

    /// See [`Connection::migrate`].
    pub fn migrate(&mut self, number: u64) {
        self.call(number, Connection::migrate);
    }

    /// See [`Connection::close`].
    pub fn close(&mut self, number: u64, code: u64, reason: Vec<u8>) {
        self.call(number, |connection| {
            connection.close(Cause::Local, code, reason);
        });
    }

    /// See [`Connection::stats`]; the second value is the time of `last_heard`.
    pub fn stats(&self, number: u64) -> Option<(Stats, f64)> {
        let connection = self.connections.get(self.numbers.get(&number)?)?;
        let stats = connection.stats();
        let heard = self.clock.seconds(stats.last_heard);
        Some((stats, heard))
    }

    /// Return the address of the peer.
    pub fn address(&self, number: u64) -> Option<SocketAddr> {
        let connection = self.connections.get(self.numbers.get(&number)?)?;
        Some(connection.address())
    }

    /// Return true if this side began the connection.
    pub fn is_client(&self, number: u64) -> Option<bool> {
        let connection = self.connections.get(self.numbers.get(&number)?)?;
        Some(connection.quic.side() == Side::Client)
    }

    /// Make the next work on this connection panic, for tests.
    pub fn fail(&mut self, number: u64) {
        self.call(number, |connection| connection.inject_panic = true);
    }

    fn call<T>(&mut self, number: u64, work: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        let key = *self.numbers.get(&number)?;
        let mut answer = None;
        self.with_connection(key, |connection, _| answer = Some(work(connection)));
        self.queue_events(key);
        self.queue_to_send(key);
        answer
    }
}
