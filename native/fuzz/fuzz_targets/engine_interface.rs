//! Fuzz target of the engine's public interface: calls in any order, for connections and streams that exist or do not;
//! datagrams of a peer, intact, altered or invented; and time. Nothing panics, and neither end reads more
//! bytes than the other has written.

#![no_main]

use std::net::SocketAddr;
use std::sync::OnceLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use quictunnel_native::{Congestion, Engine, Event, Limits, Settings};

const NAME: &str = "fuzz.test";
const EDGE: ([u8; 4], u16) = ([192, 0, 2, 1], 4433);
const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 7], 50_000);
const UNKNOWN_PEER: ([u8; 4], u16) = ([203, 0, 113, 9], 1234);
/// Steps of an input; more of them only make it slow.
const MAX_STEPS: usize = 300;
const BLOCK: usize = 4096;

/// Certificates are created once, because no input can change them.
fn settings(is_server: bool) -> Settings {
    static MADE: OnceLock<(Vec<u8>, Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (certificate, private_key, authority) = MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
        (
            made.cert.pem().into_bytes(),
            made.signing_key.serialize_pem().into_bytes(),
            made.cert.der().to_vec(),
        )
    });
    Settings {
        is_server,
        alpn: b"fuzz".to_vec(),
        certificate: certificate.clone(),
        private_key: private_key.clone(),
        authorities: vec![authority.clone()],
        pin: Vec::new(),
        idle_timeout: 30.0,
        handshake_timeout: 10.0,
        max_unadmitted: 16,
        eviction_code: 0,
        retry: false,
        ack_delay: 0.001,
        reset_key: vec![1; 32],
        unadmitted: Limits { streams: 1, stream_window: 16 << 10, connection_window: 16 << 10 },
        trusted: Limits { streams: 64, stream_window: 64 << 10, connection_window: 256 << 10 },
        first_window: 256 << 10,
        send_buffer: 64 * 1024,
        largest_datagram: 1452,
        max_probe_timeout: 1.0,
        key_update_packets: 1000,
        congestion: Congestion::Cubic,
        cid_prefix: Some(7),
    }
}

struct EngineEnd {
    engine: Engine,
    address: SocketAddr,
    connections: Vec<u64>,
    written: usize,
    read: usize,
}

impl EngineEnd {
    fn new(is_server: bool, address: SocketAddr) -> Self {
        let engine = Engine::new(settings(is_server)).expect("the settings are good");
        Self { engine, address, connections: vec![1 << 40], written: 0, read: 0 }
    }

    /// Timers, events, and what leaves.
    fn turn(&mut self, now: f64) -> Vec<(Vec<u8>, usize)> {
        if self.engine.timeout().is_some_and(|due| due <= now) {
            self.engine.expire(now);
        }
        for (number, event) in self.engine.poll() {
            match event {
                Event::Connected { .. } => self.connections.push(number),
                Event::Data { chunks, .. } => {
                    self.read += chunks.iter().map(Bytes::len).sum::<usize>();
                }
                _ => {}
            }
        }
        let mut left = Vec::new();
        self.engine.transmit(now);
        while let Some(burst) = self.engine.next_burst() {
            left.push((burst.data.clone(), burst.segment));
            self.engine.recycle(burst);
        }
        left
    }
}

/// The input, byte by byte; zeros when it has ended.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first)
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let size = (self.byte() << 3).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(size);
        self.0 = rest;
        taken.to_vec()
    }
}

fn change(data: &mut [u8], script: &mut Script) {
    if !data.is_empty() {
        let place = (script.byte() << 8 | script.byte()) % data.len();
        data[place] ^= script.byte() as u8 | 1;
    }
}

/// One call of a driver's, whether it makes sense or not.
fn call(side: &mut EngineEnd, script: &mut Script, block: &Bytes) {
    let number = side.connections[script.byte() % side.connections.len()];
    let stream = script.byte() as u64;
    let engine = &mut side.engine;
    match script.byte() % 10 {
        0 => drop(engine.open(number)),
        1 => {
            let offered = script.byte() << 4;
            side.written += engine.write(number, stream, offered, |room| block.slice(..room));
        }
        2 => engine.finish(number, stream),
        3 => engine.reset(number, stream, script.byte() as u64),
        4 => engine.stop(number, stream, script.byte() as u64),
        5 => engine.prioritise(number, stream),
        6 => engine.admit(number),
        7 => engine.ping(number),
        8 => engine.migrate(number),
        _ if script.byte() > 250 => engine.close(number, stream, script.bytes(64)),
        _ => drop((engine.stats(number), engine.address(number), engine.is_client(number))),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let block = Bytes::from(vec![7; BLOCK]);
    let mut sides = [EngineEnd::new(true, EDGE.into()), EngineEnd::new(false, CLIENT.into())];
    let number = sides[1].engine.connect(EDGE.into(), NAME, 0.0).expect("a client connects");
    sides[1].connections.push(number);
    let mut now = 0.0;
    for _ in 0..MAX_STEPS {
        if script.0.is_empty() {
            break;
        }
        let which = script.byte();
        call(&mut sides[which & 1], &mut script, &block);
        now += f64::from((which >> 5) as u32) * 0.01;
        for from in 0..2 {
            let left = sides[from].turn(now);
            let source = sides[from].address;
            for (mut data, segment) in left {
                match which >> 1 & 15 {
                    0 => change(&mut data, &mut script),
                    1 => continue, // lost
                    2 => {
                        let twice = data.clone();
                        sides[1 - from].engine.receive([(&twice[..], segment, source)], now);
                    }
                    _ => {}
                }
                sides[1 - from].engine.receive([(&data[..], segment, source)], now);
            }
        }
        if which >> 1 & 15 == 3 {
            let made = script.bytes(1500);
            let source = if which & 1 == 0 { UNKNOWN_PEER } else { CLIENT };
            sides[0].engine.receive([(&made[..], made.len().max(1), source.into())], now);
        }
    }
    for side in &sides {
        assert_eq!(side.engine.counters().panics, 0);
    }
    assert!(sides[0].read <= sides[1].written, "more was delivered than was ever written");
    assert!(sides[1].read <= sides[0].written, "more was delivered than was ever written");
});
