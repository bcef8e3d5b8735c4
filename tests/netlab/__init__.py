"""The lab: two real kernels' network stacks in namespaces, joined by a WAN that can be made as bad as one likes.

What may be imported from outside is named here; nothing here needs pytest (its fixture is in ``fixture.py``).
"""

from tests.netlab.build import WanBuildError
from tests.netlab.lab import Lab, LabError, missing
from tests.netlab.link import Counters, Direction, Link, LinkStats, Settings, WanGoneError
from tests.netlab.namespace import Host

__all__ = [
    "Counters",
    "Direction",
    "Host",
    "Lab",
    "LabError",
    "Link",
    "LinkStats",
    "Settings",
    "WanBuildError",
    "WanGoneError",
    "missing",
]
