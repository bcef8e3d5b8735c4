"""The protocol, as thinking: bytes in, messages and decisions out.

Nothing here knows asyncio, sockets, a clock or a QUIC library; time and chance are arguments. Everything a
peer can send raises :class:`quictunnel.errors.ProtocolError` or nothing.
"""
