"""The reference QUIC engine, on aioquic: pure Python, installed everywhere.

The only package that imports aioquic. Which of its private names are relied on is written in ``names.py``.
"""

from quictunnel.transport.engines.aioquic.engine import AioquicEngine

__all__ = ["AioquicEngine"]
