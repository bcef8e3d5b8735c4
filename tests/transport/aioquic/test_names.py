"""The private names of aioquic that the engine relies on are still what they were."""

from __future__ import annotations

import ast
import hashlib
import inspect
from pathlib import Path

import aioquic
import pytest
from aioquic import tls
from aioquic.quic import connection, crypto, rangeset, recovery
from aioquic.quic.configuration import QuicConfiguration

from quictunnel.transport.engines.aioquic import engine, private_api
from quictunnel.transport.engines.aioquic import keys as ours_keys
from quictunnel.transport.engines.aioquic import quic_connection as ours_connection
from quictunnel.transport.engines.aioquic import recovery as ours_recovery

REPLACED = {
    connection.QuicConnection: ours_connection.TunnelConnection,
    recovery.QuicPacketRecovery: ours_recovery.Recovery,
    rangeset.RangeSet: ours_recovery.ReceivedNumbers,
    crypto.CryptoPair: ours_keys.OneRttKeys,
}


@pytest.fixture(scope="module")
def objects() -> dict[str, object]:
    plain = connection.QuicConnection(configuration=QuicConfiguration())
    plain._version = 1
    plain._initialize(b"12345678")
    keys = plain._cryptos_initial[1].recv
    return {
        "QuicConnection": plain,
        "QuicPacketRecovery": plain._loss,
        "QuicPacketNumberWindow": recovery.QuicPacketNumberWindow(),
        "RangeSet": rangeset.RangeSet(),
        "CryptoPair": plain._cryptos[tls.Epoch.ONE_RTT],
        "AEAD": keys.aead,
        "HeaderProtection": keys.hp,
        "tls.Context": plain.tls,
    }


def test_the_version_is_the_one_that_was_read():
    assert aioquic.__version__.startswith(private_api.VERSION + ".")
    assert engine.AioquicEngine.version == aioquic.__version__


@pytest.mark.parametrize(
    "name", [(owner, name) for owner, all_ in private_api.ATTRIBUTES.items() for name in all_], ids=str
)
def test_private_attributes_exist(objects, name):
    owner, attribute = name
    assert hasattr(objects[owner], attribute)


def overridden() -> dict[str, str]:
    found = {}
    for base, ours in REPLACED.items():
        for name in vars(ours):
            function = vars(base).get(name)
            if inspect.isfunction(function):
                source = inspect.getsource(function).encode()
                found[f"{base.__qualname__}.{name}"] = hashlib.sha256(source).hexdigest()[:16]
    return found


def test_replaced_functions_are_as_they_were():
    assert overridden() == private_api.OVERRIDDEN


def test_no_private_name_is_used_without_being_listed(objects):
    used = set()
    for path in Path(inspect.getfile(engine)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                used.add(node.attr)
    listed = {name for all_ in private_api.ATTRIBUTES.values() for name in all_}
    ours = set()
    for path in Path(inspect.getfile(engine)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                ours.add(node.name)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                ours.add(node.attr)
    theirs = {name for owner in objects.values() for name in dir(owner)}
    assert not (used & theirs) - listed - ours
