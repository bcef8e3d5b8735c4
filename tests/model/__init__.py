"""A model of the session: programs, edges, visitors and origins in one virtual world, driven at random from a seed.

The product's own code runs in it (uplink, calls, sessions, links, splices, guests, leases, tickets). What is simulated
is beneath and around it: QUIC connections whose pieces a scheduler delivers one by one (``quic``) or the simulated
network with the real engines (``ground``), and TCP connections without sockets (``tcp``).

    python -m tests.model --steps 1000000 --seed 7
"""
