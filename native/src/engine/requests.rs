//! What callers ask of one connection. Nothing happens, and None is returned, when it is gone.

use std::net::SocketAddr;

use bytes::Bytes;
use quinn_proto::Side;

use super::Engine;
use crate::connection::Connection;
use crate::events::{Cause, Stats};

impl Engine {
    /// See [`Connection::open`].
    pub fn open(&mut self, number: u64) -> Option<u64> {
        self.ask(number, Connection::open).flatten()
    }

    /// Take as many bytes as there is room for; `data` is asked for exactly that many.
    pub fn write(
        &mut self,
        number: u64,
        stream: u64,
        offered: usize,
        data: impl FnOnce(usize) -> Bytes,
    ) -> usize {
        self.ask(number, |connection| {
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
        self.ask(number, |connection| connection.finish(stream));
    }

    /// See [`Connection::reset`].
    pub fn reset(&mut self, number: u64, stream: u64, code: u64) {
        self.ask(number, |connection| connection.reset(stream, code));
    }

    /// See [`Connection::stop`].
    pub fn stop(&mut self, number: u64, stream: u64, code: u64) {
        self.ask(number, |connection| connection.stop(stream, code));
    }

    /// See [`Connection::prioritise`].
    pub fn prioritise(&mut self, number: u64, stream: u64) {
        self.ask(number, |connection| connection.prioritise(stream));
    }

    /// See [`Connection::admit`].
    pub fn admit(&mut self, number: u64) {
        let (trusted, first) = {
            let settings = &self.config.settings;
            (settings.trusted, settings.first_window)
        };
        self.strangers.admit(number);
        self.ask(number, |connection| connection.admit(trusted, first));
    }

    /// See [`Connection::ping`].
    pub fn ping(&mut self, number: u64) {
        self.ask(number, Connection::ping);
    }

    /// See [`Connection::migrate`].
    pub fn migrate(&mut self, number: u64) {
        self.ask(number, Connection::migrate);
    }

    /// See [`Connection::close`].
    pub fn close(&mut self, number: u64, code: u64, reason: Vec<u8>) {
        self.ask(number, |connection| {
            connection.close(Cause::Local, code, reason);
        });
    }

    /// See [`Connection::stats`]; the last is the time of `last_heard`.
    pub fn stats(&self, number: u64) -> Option<(Stats, f64)> {
        let connection = self.connections.get(self.numbers.get(&number)?)?;
        let stats = connection.stats();
        let heard = self.clock.seconds(stats.last_heard);
        Some((stats, heard))
    }

    /// Where the peer is.
    pub fn address(&self, number: u64) -> Option<SocketAddr> {
        let connection = self.connections.get(self.numbers.get(&number)?)?;
        Some(connection.address())
    }

    /// Whether this side began it.
    pub fn is_client(&self, number: u64) -> Option<bool> {
        let connection = self.connections.get(self.numbers.get(&number)?)?;
        Some(connection.quic.side() == Side::Client)
    }

    /// The next work on this connection panics. For tests of what that costs.
    pub fn fail(&mut self, number: u64) {
        self.ask(number, |connection| connection.must_panic = true);
    }

    fn ask<T>(&mut self, number: u64, work: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        let key = *self.numbers.get(&number)?;
        let mut answer = None;
        self.guarded(key, |connection, _| answer = Some(work(connection)));
        self.announce(key);
        self.touch(key);
        answer
    }
}
