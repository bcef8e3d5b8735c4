"""The traffic inspector: a local page that shows a developer the requests and responses of a tunnel.

::

    stream <-> TappedSplice <-> origin        the tunnel's thread; a copy of every reference into a bounded queue
                    |
                 Recorder                     the inspector's thread: at most a fifth of a processor core
                    |
    ConnectionParser (h11 · WebSocket · raw) -> ExchangeStore -> the page (web_app), curl, replay

The byte path never waits for the inspector and is not affected by its errors. If it cannot keep up, bytes pass
without being recorded, and the page says so. A tunnel without an inspector has no cost, not even a branch.

This package imports nothing, because each of its modules imports it; ``factory`` starts an inspector.
"""
