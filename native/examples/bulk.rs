//! Two engines in one process, and bytes from one to the other: what `valgrind --tool=callgrind` counts instructions of
//! (perf/instructions.py). No sockets, no threads, virtual time, and no random choice that changes the work.
//!
//!     cargo run --release --no-default-features --example bulk STREAMS BYTES_OF_EACH

use std::net::SocketAddr;

use bytes::Bytes;
use quictunnel_native::{Congestion, Engine, Event, Limits, Settings};

/// Seconds for each turn of both; also the round trip.
const TICK: f64 = 0.001;
/// Turns after which it will not come to its end.
const PATIENCE: usize = 1_000_000;
const CHUNK: usize = 128 * 1024;
/// Payload of a datagram on Ethernet.
const DATAGRAM: u16 = 1452;
const NAME: &str = "bulk.test";
const EDGE: ([u8; 4], u16) = ([192, 0, 2, 1], 4433);
const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 7], 50_000);

struct Side {
    engine: Engine,
    address: SocketAddr,
    /// `(datagrams, the size of each)`.
    inbox: Vec<(Vec<u8>, usize)>,
    told: Vec<Event>,
}

impl Side {
    fn new(settings: Settings, address: SocketAddr) -> Self {
        Self {
            engine: Engine::new(settings).expect("the settings are good"),
            address,
            inbox: Vec::new(),
            told: Vec::new(),
        }
    }

    /// As a driver does: datagrams, timers, events, datagrams.
    fn turn(&mut self, other: &mut Side, now: f64) {
        let batch = std::mem::take(&mut self.inbox);
        let from = other.address;
        self.engine.receive(
            batch.iter().map(|(data, size)| (&data[..], *size, from)),
            now,
        );
        if self.engine.timeout().is_some_and(|due| due <= now) {
            self.engine.expire(now);
        }
        self.told
            .extend(self.engine.poll().into_iter().map(|(_, event)| event));
        self.engine.transmit(now);
        while let Some(burst) = self.engine.next_burst() {
            other.inbox.push((burst.data.clone(), burst.segment));
            self.engine.recycle(burst);
        }
    }
}

/// The part of an upload that is not written yet.
struct Upload {
    stream: u64,
    left: usize,
    arrived: usize,
}

fn main() {
    let mut words = std::env::args()
        .skip(1)
        .map(|word| word.parse::<usize>().expect("two numbers"));
    let (Some(streams), Some(bytes)) = (words.next(), words.next()) else {
        panic!("how many streams, and how many bytes each?");
    };
    let mut settings = settings();
    let mut edge = Side::new(settings.clone(), EDGE.into());
    settings.is_server = false;
    let mut client = Side::new(settings, CLIENT.into());
    let number = client
        .engine
        .connect(edge.address, NAME, 0.0)
        .expect("a client connects");
    let block = Bytes::from(vec![7; CHUNK]);
    let mut uploads: Vec<Upload> = Vec::new();
    for turn in 0..PATIENCE {
        let now = turn as f64 * TICK;
        edge.turn(&mut client, now);
        client.turn(&mut edge, now);
        for event in client.told.drain(..) {
            if matches!(event, Event::Connected { .. }) {
                uploads = (0..streams)
                    .map(|_| Upload {
                        stream: client.engine.open(number).expect("streams are allowed"),
                        left: bytes,
                        arrived: 0,
                    })
                    .collect();
            }
        }
        for upload in &mut uploads {
            let offered = upload.left.min(CHUNK);
            let (engine, stream) = (&mut client.engine, upload.stream);
            upload.left -= engine.write(number, stream, offered, |room| block.slice(..room));
        }
        for event in edge.told.drain(..) {
            if let Event::Data { stream, chunks, .. } = event {
                let size: usize = chunks.iter().map(Bytes::len).sum();
                let upload = uploads.iter_mut().find(|upload| upload.stream == stream);
                upload.expect("only what was opened").arrived += size;
            }
        }
        if !uploads.is_empty() && uploads.iter().all(|upload| upload.arrived == bytes) {
            println!("{streams} streams of {bytes} bytes in {turn} turns");
            return;
        }
    }
    panic!("it did not come to its end");
}

/// The edge's.
fn settings() -> Settings {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
    let limits = Limits {
        streams: 1024,
        stream_window: 2 << 20,
        connection_window: 4 << 20,
    };
    Settings {
        is_server: true,
        alpn: b"bulk".to_vec(),
        certificate: made.cert.pem().into_bytes(),
        private_key: made.signing_key.serialize_pem().into_bytes(),
        authorities: vec![made.cert.der().to_vec()],
        pin: Vec::new(),
        idle_timeout: 30.0,
        handshake_timeout: 10.0,
        max_unadmitted: 16,
        eviction_code: 0,
        retry: false,
        ack_delay: 0.001,
        reset_key: vec![1; 32],
        unadmitted: limits,
        trusted: limits,
        first_window: 256 << 10,
        send_buffer: 512 * 1024,
        largest_datagram: DATAGRAM,
        max_probe_timeout: 1.0,
        key_update_packets: 1 << 21,
        congestion: Congestion::Cubic,
        cid_prefix: None,
    }
}
