"""A network in one process and in no time at all: a virtual clock, seeded links, sockets without a system.

::

    def test_something(network):                       # tests/simnet/fixtures.py
        edge = network.socket(("10.0.0.1", 4433))
        client = network.socket(("10.0.0.2", 5000), up=Conditions(delay=0.025), down=Conditions(delay=0.025))

Every socket hangs on the core of the network by two links of its own, ``up`` and ``down``; what it sends goes
through its own ``up`` and the receiver's ``down``. Their conditions may be changed at any time. The same seed
gives the same run, to the last bit and microsecond.
"""
