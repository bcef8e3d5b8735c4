"""The file that keeps a ticket."""

import stat

import pytest

from quictunnel.connection.ticket_file import FIRST_LINE, MAX_FILE, TicketFile
from quictunnel.errors import ConfigError
from quictunnel.wire.messages import MAX_TICKET


def test_ticket_file_is_readable_by_its_owner_only(tmp_path):
    file = TicketFile(tmp_path / "ticket")
    assert file.read() == b""
    for ticket in (b"first", bytes(range(256)), b"x" * MAX_TICKET):
        file.write(ticket)
        assert file.read() == ticket
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["ticket"]


def test_a_home_directory_may_be_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    TicketFile("~/ticket").write(b"x")
    assert TicketFile(tmp_path / "ticket").read() == b"x"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN OPENSSH PRIVATE KEY-----",
        FIRST_LINE.encode(),
        FIRST_LINE.encode() + b"\n",
        FIRST_LINE.encode() + b"\nnot base64!",
        FIRST_LINE.encode() + b"\n" + b"QUJD" * (MAX_FILE // 4),
        bytes(range(256)) * 20,
    ],
    ids=repr,
)
def test_malformed_ticket_file_is_named_in_the_error(tmp_path, content):
    path = tmp_path / "ticket"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="ticket file") as raised:
        TicketFile(path).read()
    assert str(path) in str(raised.value)
    assert path.read_bytes() == content


def test_a_directory_is_no_ticket(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        TicketFile(tmp_path).read()
