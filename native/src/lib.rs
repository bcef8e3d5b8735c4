//! quinn-proto as the QUIC engine of quictunnel.
//!
//! A sans-IO state machine for all connections of one UDP socket: datagrams and the time go in; datagrams, deadlines and
//! events come out, in batches. The crate has no thread, no socket, no clock and no protocol above QUIC. [`Engine`] is
//! plain Rust; with the feature `python` the extension module `quictunnel_native` wraps it.

#![forbid(unsafe_code)]

mod ack_delay;
mod anti_amplification;
mod bbr;
mod cid_generator;
mod clock;
mod config;
mod congestion;
mod connection;
mod engine;
mod events;
mod frames;
mod liveness;
mod mtu_probe;
mod panic;
mod pinned_verifier;
#[cfg(feature = "python")]
mod python;
mod sealing;
mod streams;
mod tail_loss_probe;
mod window;

pub use config::{certificates, Limits, Settings, SettingsError};
pub use congestion::Congestion;
pub use engine::{Counters, Engine};
pub use events::{Cause, Event, Outgoing, Stats};
