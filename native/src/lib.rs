//! quinn-proto as the QUIC engine of quictunnel.
//!
//! A sans-IO state machine for every connection of one UDP socket: datagrams and the time go in; datagrams,
//! deadlines and events come out, in batches. There is no protocol of ours in here, no thread, no socket and
//! no clock. [`Engine`] is plain Rust; with the feature `python` the module `quictunnel_native` wraps it.

#![forbid(unsafe_code)]

mod acks;
mod bbr;
mod cids;
mod config;
mod congestion;
mod connection;
mod containment;
mod engine;
mod events;
mod frames;
mod hearing;
mod probing;
#[cfg(feature = "python")]
mod python;
mod reach;
mod sealing;
mod streams;
mod tail;
mod time;
mod window;

pub use config::{certificates, Limits, Mistake, Settings};
pub use congestion::Congestion;
pub use engine::{Counters, Engine};
pub use events::{Cause, Event, Outgoing, Stats};
