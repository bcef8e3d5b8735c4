"""A model of the session: programs, edges, visitors and local services, driven at random from a seed.

The product's own code runs in it: ``Uplink``, ``Call``, ``Session``, ``Stream``, ``Splice``, ``Endpoint``,
``RunningEdge``, ``ClientSession``, ``Bindings``, ``Tunnel`` and the tickets. Simulated are time
(``stepped_loop``), TCP connections (``tcp``) and the network, of which there are two kinds: scripted links, on
which a rule chooses the piece that arrives next (``quic``, ``scripted_engine``, ``scripted_network``), and
the real engines over the simulated network of ``tests.simnet`` (``simnet_network``).

``system`` holds everybody, ``edge`` and ``program`` are its parts. ``rules``, ``scripted_rules`` and
``simnet_rules`` say what can happen, ``invariants`` what has to hold, ``states`` which states a
run has to reach. ``runner`` plays episodes and shortens the steps of a failure; ``scenario`` plays steps that were
written down.
"""
