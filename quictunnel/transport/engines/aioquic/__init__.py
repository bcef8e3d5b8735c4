"""The reference QUIC engine with aioquic: pure Python, part of every installation.

This is the only package that imports aioquic. Module ``private_api`` lists the private names that it uses. Nothing
is imported here, so that ``version`` can be read without the engine.
"""
