"""Names and the tunnels that have them."""

from __future__ import annotations

import re

import pytest

from edge_server.ingress.admission import Admission
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.registry import NAME_BYTES, Registry, random_name
from edge_server.tunnels.tunnel import Tunnel
from edge_server.tunnels.visitor_log import VisitorLog


def tunnel(name: str) -> Tunnel:
    return Tunnel(
        name, options=TunnelOptions(), owner="owner", admission=Admission(cap=1), visitor_log=VisitorLog()
    )


class TestNames:
    def test_have_eighty_random_bits(self):
        assert NAME_BYTES * 8 >= 80
        names = {random_name() for _ in range(1000)}
        assert len(names) == 1000
        assert all(re.fullmatch("[a-z2-7]{16}", name) for name in names)
        # Every place takes every letter: nothing in them is fixed.
        assert all(len({name[place] for name in names}) == 32 for place in range(16))


class TestRegistry:
    def test_finds_who_holds_a_name(self):
        registry = Registry()
        held = tunnel("a")
        assert registry.find("a") is None
        registry.add(held)
        assert registry.find("a") is held
        assert len(registry) == 1

    def test_random_names_are_unused(self):
        names = iter(["a", "a", "b"])
        registry = Registry(lambda: next(names))
        registry.add(tunnel(registry.generate_name()))
        assert registry.generate_name() == "b"

    def test_a_name_is_held_once(self):
        registry = Registry()
        registry.add(tunnel("a"))
        with pytest.raises(AssertionError):
            registry.add(tunnel("a"))

    def test_late_release_keeps_the_new_holder(self):
        registry = Registry()
        old, new = tunnel("a"), tunnel("a")
        registry.add(old)
        registry.remove(old)
        registry.add(new)
        registry.remove(old)  # late, as the end of a tunnel that was kept is
        assert registry.find("a") is new
        registry.remove(new)
        registry.remove(new)
        assert len(registry) == 0
