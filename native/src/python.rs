//! The extension module `quictunnel_native`: the engine, with bytes and tuples as arguments.
//!
//! An engine is for one thread at a time: a call during another call raises `RuntimeError`. The GIL is released while
//! datagrams are received and built, which takes most of the time.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use pyo3::IntoPyObjectExt;

use crate::config::{certificates, Limits, Settings};
use crate::congestion::Congestion;
use crate::engine;
use crate::events::{Cause, Event};
use crate::panic::catch_panic;

/// Fewer bytes than this are copied, which is cheaper than keeping the Python object until they are acknowledged.
const SMALL: usize = 4096;

/// A range of the bytes of a Python object, which is not copied.
struct Part {
    whole: PyBackedBytes,
    range: Range<usize>,
}

impl Part {
    fn of(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            let range = 0..bytes.as_bytes().len();
            let whole = bytes.clone().into();
            return Ok(Self { whole, range });
        }
        let view = PyBuffer::<u8>::get(data)?;
        let owner = data.getattr("obj")?.cast_into::<PyBytes>()?;
        if !view.is_c_contiguous() {
            return Err(PyBufferError::new_err("a view with gaps"));
        }
        let start = (view.buf_ptr() as usize) - (owner.as_bytes().as_ptr() as usize);
        let range = start..start + view.len_bytes();
        let whole = owner.into();
        Ok(Self { whole, range })
    }

    fn len(&self) -> usize {
        self.range.len()
    }

    /// Return the first `size` bytes.
    fn into_bytes(mut self, size: usize) -> Bytes {
        self.range.end = self.range.start + size;
        match size < SMALL {
            true => Bytes::copy_from_slice(self.as_ref()),
            false => Bytes::from_owner(self),
        }
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.whole[self.range.clone()]
    }
}

/// All connections of one UDP socket.
#[pyclass(name = "Engine", module = "quictunnel_native")]
struct PyEngine {
    engine: engine::Engine,
    /// IPv6 addresses are tuples of four, as those of sockets are.
    has_scopes: bool,
}

/// One read of a socket: datagrams of equal size back to back, that size, and the source address.
type Received<'py> = (PyBackedBytes, usize, Bound<'py, PyTuple>);

#[pymethods]
impl PyEngine {
    /// `settings`: by name, with the contents of files instead of paths. Raises `ValueError` for unusable ones.
    #[new]
    fn new(settings: &Bound<'_, PyDict>) -> PyResult<Self> {
        let engine = engine::Engine::new(settings_of(settings)?).map_err(PyValueError::new_err)?;
        Ok(Self {
            engine,
            has_scopes: true,
        })
    }

    fn connect(&mut self, address: &Bound<'_, PyTuple>, name: &str, now: f64) -> PyResult<u64> {
        let address = self.address_of(address)?;
        self.safely(|engine| engine.connect(address, name, now))?
            .map_err(PyValueError::new_err)
    }

    fn receive(&mut self, py: Python<'_>, batch: Vec<Received<'_>>, now: f64) -> PyResult<()> {
        let mut parsed = Vec::with_capacity(batch.len());
        for (payload, segment, address) in batch {
            parsed.push((payload, segment, self.address_of(&address)?));
        }
        py.detach(|| {
            let batch = parsed
                .iter()
                .map(|(payload, segment, address)| (&payload[..], *segment, *address));
            self.safely(|engine| engine.receive(batch, now))
        })
    }

    fn expire(&mut self, now: f64) -> PyResult<()> {
        self.safely(|engine| engine.expire(now))
    }

    fn timeout(&self) -> Option<f64> {
        self.engine.timeout()
    }

    /// Return `(connection, kind, ...)`; the kinds are the names of the events in `transport/engine.py`, and `Gone`.
    fn poll<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let polled = self.safely(engine::Engine::poll)?;
        let events = PyList::empty(py);
        for (number, event) in polled {
            events.append(self.tuple_of(py, number, event)?)?;
        }
        Ok(events)
    }

    fn transmit(&mut self, now: f64) -> PyResult<()> {
        self.safely(|engine| engine.transmit(now))
    }

    /// Return `(datagrams, segment, address)`, or None.
    fn next_burst<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let Some(burst) = py.detach(|| self.safely(engine::Engine::next_burst))? else {
            return Ok(None);
        };
        let address = self.tuple_of_address(py, burst.address)?;
        let datagrams = PyBytes::new(py, &burst.data);
        let segment = burst.segment;
        self.engine.recycle(burst);
        Ok(Some((datagrams, segment, address).into_pyobject(py)?))
    }

    fn has_connections(&self) -> bool {
        self.engine.has_connections()
    }

    /// Return the number of connections in memory, and the number of those whose peer was not admitted.
    fn population(&self) -> (usize, usize) {
        self.engine.population()
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = self.engine.counters();
        let dict = PyDict::new(py);
        dict.set_item("retries_sent", counters.retries_sent)?;
        dict.set_item(
            "version_negotiations_sent",
            counters.version_negotiations_sent,
        )?;
        dict.set_item("resets_sent", counters.resets_sent)?;
        dict.set_item("handshakes_begun", counters.handshakes_begun)?;
        dict.set_item("half_open_refused", counters.half_open_refused)?;
        dict.set_item("strangers_replaced", counters.unadmitted_evicted)?;
        dict.set_item("datagrams_dropped", counters.datagrams_dropped)?;
        dict.set_item("connections_failed", counters.connections_failed)?;
        dict.set_item("panics", counters.panics)?;
        Ok(dict)
    }

    fn open(&mut self, number: u64) -> PyResult<Option<u64>> {
        self.safely(|engine| engine.open(number))
    }

    /// `data` is bytes, or a memoryview of bytes.
    fn write(&mut self, number: u64, stream: u64, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let part = Part::of(data)?;
        self.safely(|engine| engine.write(number, stream, part.len(), |room| part.into_bytes(room)))
    }

    fn finish(&mut self, number: u64, stream: u64) -> PyResult<()> {
        self.safely(|engine| engine.finish(number, stream))
    }

    fn reset(&mut self, number: u64, stream: u64, code: u64) -> PyResult<()> {
        self.safely(|engine| engine.reset(number, stream, code))
    }

    fn stop(&mut self, number: u64, stream: u64, code: u64) -> PyResult<()> {
        self.safely(|engine| engine.stop(number, stream, code))
    }

    fn prioritise(&mut self, number: u64, stream: u64) -> PyResult<()> {
        self.safely(|engine| engine.prioritise(number, stream))
    }

    fn admit(&mut self, number: u64) -> PyResult<()> {
        self.safely(|engine| engine.admit(number))
    }

    fn ping(&mut self, number: u64) -> PyResult<()> {
        self.safely(|engine| engine.ping(number))
    }

    fn migrate(&mut self, number: u64) -> PyResult<()> {
        self.safely(|engine| engine.migrate(number))
    }

    fn close(&mut self, number: u64, code: u64, reason: Vec<u8>) -> PyResult<()> {
        self.safely(|engine| engine.close(number, code, reason))
    }

    fn address<'py>(&self, py: Python<'py>, number: u64) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.engine
            .address(number)
            .map(|address| self.tuple_of_address(py, address))
            .transpose()
    }

    fn is_client(&self, number: u64) -> Option<bool> {
        self.engine.is_client(number)
    }

    /// Return the arguments of `Stats` in `transport/engine.py`, in order.
    fn stats<'py>(&self, py: Python<'py>, number: u64) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let Some((stats, last_heard)) = self.engine.stats(number) else {
            return Ok(None);
        };
        let tuple = (
            stats.rtt,
            stats.congestion_window,
            stats.bytes_in_flight,
            stats.datagram_size,
            stats.bytes_sent,
            stats.bytes_received,
            stats.packets_sent,
            stats.packets_received,
            stats.packets_lost,
            stats.packets_acked,
            stats.streams_open,
            last_heard,
        );
        Ok(Some(tuple.into_pyobject(py)?))
    }

    /// Make the next work on this connection panic, for tests.
    fn fail(&mut self, number: u64) -> PyResult<()> {
        self.safely(|engine| engine.fail(number))
    }
}

impl PyEngine {
    /// Raise a panic as `RuntimeError`: PyO3's own exception is no `Exception` and would end the event loop.
    fn safely<T>(&mut self, work: impl FnOnce(&mut engine::Engine) -> T) -> PyResult<T> {
        catch_panic(|| work(&mut self.engine)).map_err(|location| {
            PyRuntimeError::new_err(format!("a fault inside the QUIC engine: {location}"))
        })
    }

    fn address_of(&mut self, address: &Bound<'_, PyTuple>) -> PyResult<SocketAddr> {
        let host = address.get_borrowed_item(0)?;
        let host: &str = host.extract()?;
        let port: u16 = address.get_borrowed_item(1)?.extract()?;
        let bare = host.split('%').next().unwrap_or(host);
        let ip: IpAddr = bare
            .parse()
            .map_err(|_| PyValueError::new_err("an address of a socket has to be numeric"))?;
        match ip {
            IpAddr::V4(_) => Ok(SocketAddr::new(ip, port)),
            IpAddr::V6(ip) => {
                self.has_scopes = address.len() == 4;
                let (flow, scope) = if self.has_scopes {
                    (
                        address.get_borrowed_item(2)?.extract()?,
                        address.get_borrowed_item(3)?.extract()?,
                    )
                } else {
                    (0, 0)
                };
                Ok(SocketAddrV6::new(ip, port, flow, scope).into())
            }
        }
    }

    fn tuple_of(&self, py: Python<'_>, number: u64, event: Event) -> PyResult<Py<PyAny>> {
        match event {
            Event::Data {
                stream,
                chunks,
                end,
            } => {
                let size = chunks.iter().map(Bytes::len).sum();
                let joined = PyBytes::new_with(py, size, |mut space| {
                    for chunk in &chunks {
                        let (here, rest) = space.split_at_mut(chunk.len());
                        here.copy_from_slice(chunk);
                        space = rest;
                    }
                    Ok(())
                })?;
                (number, "Data", stream, joined, end).into_py_any(py)
            }
            Event::Connected { address } => {
                let address = self.tuple_of_address(py, address)?;
                (number, "Connected", address).into_py_any(py)
            }
            Event::Reset { stream, code } => (number, "Reset", stream, code).into_py_any(py),
            Event::Stopped { stream, code } => (number, "Stopped", stream, code).into_py_any(py),
            Event::Writable { stream } => (number, "Writable", stream).into_py_any(py),
            Event::StreamsAvailable => (number, "StreamsAvailable").into_py_any(py),
            Event::Closed {
                cause,
                code,
                reason,
            } => {
                let reason = PyBytes::new(py, &reason);
                (number, "Closed", name_of(cause), code, reason).into_py_any(py)
            }
            Event::Fault { location } => (number, "Fault", location).into_py_any(py),
            Event::Gone => (number, "Gone").into_py_any(py),
        }
    }

    fn tuple_of_address<'py>(
        &self,
        py: Python<'py>,
        address: SocketAddr,
    ) -> PyResult<Bound<'py, PyTuple>> {
        match address {
            SocketAddr::V6(v6) if self.has_scopes => {
                let host = text_of(v6.ip());
                (host, v6.port(), v6.flowinfo(), v6.scope_id()).into_pyobject(py)
            }
            SocketAddr::V6(v6) => (text_of(v6.ip()), v6.port()).into_pyobject(py),
            SocketAddr::V4(v4) => (v4.ip().to_string(), v4.port()).into_pyobject(py),
        }
    }
}

fn text_of(ip: &Ipv6Addr) -> String {
    ip.to_string()
}

fn name_of(cause: Cause) -> &'static str {
    match cause {
        Cause::Local => "LOCAL",
        Cause::Peer => "PEER",
        Cause::Timeout => "TIMEOUT",
        Cause::Reset => "RESET",
        Cause::Handshake => "HANDSHAKE",
        Cause::Protocol => "PROTOCOL",
        Cause::Internal => "INTERNAL",
    }
}

fn settings_of(dict: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let item = |name: &str| {
        dict.get_item(name)?
            .ok_or_else(|| PyValueError::new_err(format!("{name} is missing")))
    };
    let limits = |name: &str| -> PyResult<Limits> {
        let (streams, stream_window, connection_window) = item(name)?.extract()?;
        Ok(Limits {
            streams,
            stream_window,
            connection_window,
        })
    };
    let congestion: String = item("congestion")?.extract()?;
    Ok(Settings {
        is_server: item("is_server")?.extract()?,
        alpn: item("alpn")?.extract()?,
        certificate: item("certificate")?.extract()?,
        private_key: item("private_key")?.extract()?,
        authorities: item("authorities")?.extract()?,
        // Optional, so that this extension works with a package that does not know it.
        pin: dict
            .get_item("pin")?
            .map_or_else(|| Ok(Vec::new()), |pin| pin.extract())?,
        idle_timeout: item("idle_timeout")?.extract()?,
        handshake_timeout: item("handshake_timeout")?.extract()?,
        max_unadmitted: item("max_strangers")?.extract()?,
        eviction_code: item("replaced_code")?.extract()?,
        retry: item("retry")?.extract()?,
        ack_delay: item("ack_delay")?.extract()?,
        reset_key: item("reset_key")?.extract()?,
        unadmitted: limits("stranger")?,
        trusted: limits("trusted")?,
        first_window: item("first_window")?.extract()?,
        send_buffer: item("send_buffer")?.extract()?,
        largest_datagram: item("largest_datagram")?.extract()?,
        max_probe_timeout: item("max_probe_timeout")?.extract()?,
        cid_prefix: item("cid_mark")?.extract()?,
        key_update_packets: item("key_update_packets")?.extract()?,
        congestion: match congestion.as_str() {
            "cubic" => Congestion::Cubic,
            "bbr" => Congestion::Bbr,
            _ => return Err(PyValueError::new_err("congestion has to be cubic or bbr")),
        },
    })
}

/// Return the certificates of a PEM file, as DER.
#[pyfunction]
fn read_certificates<'py>(py: Python<'py>, pem: &[u8]) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let found = certificates(pem).map_err(PyValueError::new_err)?;
    Ok(found.iter().map(|der| PyBytes::new(py, der)).collect())
}

/// quinn-proto as a sans-IO engine; see the package `quictunnel`.
#[pymodule]
fn quictunnel_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("QUINN_PROTO_VERSION", env!("QUINN_PROTO_VERSION"))?;
    // Extensions without it would ignore a pin.
    module.add("PINS_AUTHORITIES", true)?;
    module.add_class::<PyEngine>()?;
    module.add_function(wrap_pyfunction!(read_certificates, module)?)?;
    Ok(())
}
