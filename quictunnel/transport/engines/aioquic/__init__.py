"""The reference QUIC engine with aioquic: pure Python, part of every installation.

This is the only package that imports aioquic. Module ``private_api`` lists the private names that it uses.
"""

from quictunnel.transport.engines.aioquic.engine import AioquicEngine

__all__ = ["AioquicEngine"]
