"""The session protocol without I/O: bytes in, messages and decisions out.

No module here imports asyncio, sockets, a clock or a QUIC library; time and randomness are arguments. Input from a
peer raises :class:`quictunnel.errors.ProtocolError` or nothing.
"""
