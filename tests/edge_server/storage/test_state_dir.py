"""The state directory: modes, races, damage."""

from __future__ import annotations

import itertools
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_server.auth.token import new_file_token
from edge_server.storage.state_dir import KEY_BYTES, MIN_TOKEN, StateDir
from quictunnel.errors import ConfigError

ROOT = Path(__file__).parents[3]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "state"


class TestSecrets:
    def test_are_made_once_and_kept(self, path):
        token, key = StateDir(path).token(new_file_token), StateDir(path).key("ticket")
        assert len(token) >= 43
        assert len(key) == KEY_BYTES
        again = StateDir(path)
        assert (again.token(new_file_token), again.key("ticket")) == (token, key)
        assert again.key("reset") != key

    def test_only_their_owner_reads(self, path):
        state = StateDir(path)
        state.token(new_file_token)
        state.key("ticket")
        state.publish(edge="127.0.0.1:1", token="t", ca=path / "ca.pem")
        assert mode(path) == 0o700
        assert {file.name: mode(file) for file in path.iterdir()} == {
            "token": 0o600,
            "ticket.key": 0o600,
            "client.env": 0o600,
        }

    def test_an_umask_does_not_widen_them(self, path, monkeypatch):
        import os

        old = os.umask(0)
        try:
            StateDir(path).token(new_file_token)
        finally:
            os.umask(old)
        assert mode(path) == 0o700
        assert mode(path / "token") == 0o600

    def test_two_processes_at_once_see_the_same(self, path):
        program = (
            "import sys; from pathlib import Path; from edge_server.auth.token import new_file_token\n"
            "from edge_server.storage.state_dir import StateDir\n"
            "print('ready', flush=True); sys.stdin.readline(); state = StateDir(Path(sys.argv[1]))\n"
            "print(state.token(new_file_token), state.key('ticket').hex())"
        )
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(path)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        seen = {racer.communicate()[0] for racer in racers}
        assert len(seen) == 1
        assert sorted(file.name for file in path.iterdir()) == ["ticket.key", "token"]  # nothing left beside them


class TestDamage:
    @pytest.mark.parametrize("size", [0, 1, KEY_BYTES - 1, KEY_BYTES + 1])
    def test_a_key_of_the_wrong_size(self, path, size):
        state = StateDir(path)
        (path / "ticket.key").write_bytes(bytes(size))
        with pytest.raises(ConfigError, match=r"ticket\.key is damaged; remove it"):
            state.key("ticket")

    @pytest.mark.parametrize(
        "content",
        [b"", b"\n", b"short", b"x" * (MIN_TOKEN - 1), b"two words are no token", b"\xff" * 43, b"x" * 513],
    )
    def test_malformed_token_file_is_an_error(self, path, content):
        """An empty one above all: it would let in whoever says nothing."""
        state = StateDir(path)
        (path / "token").write_bytes(content)
        with pytest.raises(ConfigError, match="token is no token") as raised:
            state.token(new_file_token)
        assert "\n" not in str(raised.value)

    def test_an_operators_own_token(self, path):
        state = StateDir(path)
        (path / "token").write_bytes(b"correct-horse-battery\r\n")
        assert state.token(new_file_token) == "correct-horse-battery"

    def test_a_secret_that_is_a_directory(self, path):
        state = StateDir(path)
        (path / "token").mkdir()
        with pytest.raises(ConfigError, match="cannot be read or made"):
            state.token(new_file_token)

    def test_a_directory_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match=r"cannot be written.*--state-dir"):
            StateDir(tmp_path / "file" / "state")

    def test_a_directory_that_cannot_be_written(self):
        with pytest.raises(ConfigError, match=r"cannot be written.*--state-dir"):
            StateDir(Path("/proc/self"))


class TestPublicAddress:
    def test_outlives_the_edge(self, path):
        StateDir(path).keep_public_address("edge.example.com:4433")
        assert StateDir(path).public_address() == "edge.example.com:4433"
        StateDir(path).keep_public_address("")
        assert StateDir(path).public_address() == ""

    def test_of_an_edge_that_was_never_started(self, path):
        assert StateDir(path).public_address() == ""

    def test_that_cannot_be_used_is_reported(self, path):
        state = StateDir(path)
        (path / "public-address").mkdir()
        with pytest.raises(ConfigError, match="public-address cannot be written"):
            state.keep_public_address("e:1")
        with pytest.raises(ConfigError, match="public-address cannot be read"):
            state.public_address()


class TestClientEnv:
    def publish(self, path: Path, port: int = 1):
        return StateDir(path).publish(edge=f"127.0.0.1:{port}", token="t", ca=path / "ca.pem")

    def test_says_what_a_client_needs(self, path):
        self.publish(path)
        assert (path / "client.env").read_text() == (
            f"QUICTUNNEL_EDGE=127.0.0.1:1\nQUICTUNNEL_TOKEN=t\nQUICTUNNEL_CA={path / 'ca.pem'}\n"
        )

    def test_is_withdrawn(self, path):
        env = self.publish(path)
        env.withdraw()
        assert list(path.iterdir()) == []
        env.withdraw()

    def test_of_another_edge_stays(self, path):
        first = self.publish(path)
        self.publish(path, port=2)
        first.withdraw()
        assert "127.0.0.1:2" in (path / "client.env").read_text()

    def test_of_a_successor_stays_with_the_same_content(self, path):
        first = self.publish(path)
        second = self.publish(path)
        first.withdraw()
        assert (path / "client.env").exists()
        second.withdraw()
        assert not (path / "client.env").exists()

    @pytest.mark.parametrize("moments", [set(pair) for pair in itertools.product(range(6), repeat=2)])
    def test_of_successors_that_come_between_the_steps_stays(self, path, monkeypatch, moments):
        """Successors publish before the steps with these numbers; 5 is after the last one."""
        first = self.publish(path)
        later = []
        step = itertools.count()

        def disturb(name: str) -> None:
            real = getattr(Path, name)

            def disturbed(file: Path, *args):
                if next(step) in moments:
                    with monkeypatch.context() as calm:
                        for each, undisturbed in originals.items():
                            calm.setattr(Path, each, undisturbed)
                        later.append(self.publish(path))
                return real(file, *args)

            monkeypatch.setattr(Path, name, disturbed)

        originals = {name: getattr(Path, name) for name in ("stat", "rename", "hardlink_to", "unlink")}
        for name in originals:
            disturb(name)
        first.withdraw()
        monkeypatch.undo()
        assert [file.name for file in path.iterdir()] == ["client.env"] * bool(later)
        if later:
            later[-1].withdraw()
        assert list(path.iterdir()) == []

    def test_replaces_what_a_killed_edge_left(self, path):
        self.publish(path)
        self.publish(path, port=3)
        assert [file.name for file in path.iterdir()] == ["client.env"]

    def test_unwritable_client_env_is_reported(self, path):
        state = StateDir(path)
        (path / "client.env").mkdir()
        with pytest.raises(ConfigError, match=r"client\.env cannot be written"):
            state.publish(edge="127.0.0.1:1", token="t", ca=path)
