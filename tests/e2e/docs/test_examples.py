"""The examples of the documentation, run as they stand with the real programs, in a network of their own.

That of SSH is tested in ``test_interface_examples``.
"""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import pytest

from tests.harness.edge_process import children_environment
from tests.harness.netns import new_namespace
from tests.harness.programs import need
from tests.harness.tutorial_runner import steps_of

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "docs" / "examples"
DOMAIN = "tunnel.example.com"
RETRY = ("--fail", "--retry", "60", "--retry-delay", "1", "--retry-max-time", "60")
"""The program listens a moment after it has said its address; until then visitors are told that nobody does."""


@pytest.fixture
def namespace(tmp_path):
    with new_namespace(tmp_path) as namespace:
        namespace.start_edge()
        yield namespace


@pytest.fixture
def public(tmp_path):
    """A namespace whose edge has a domain that is not below localhost."""
    with new_namespace(tmp_path, DOMAIN, f"my-page.{DOMAIN}") as namespace:
        namespace.start_edge("--domain", DOMAIN)
        yield namespace


@pytest.fixture
def start(tmp_path):
    """Start a program in a namespace; it ends with the test, with whatever it started."""
    processes = []

    def start(namespace, *command: object, **options) -> subprocess.Popen:
        process = subprocess.Popen(
            [*namespace.enter, *(str(word) for word in command)],
            env=children_environment(namespace.edge),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
            **options,
        )
        processes.append(process)
        return process

    yield start
    for process in reversed(processes):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: a client tells its edge that it leaves
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def address_of(process: subprocess.Popen) -> str:
    """Return the URL that an example prints."""
    said = process.stdout.readline()
    found = re.fullmatch(r"Listening at (https://\S+)\n", said)
    assert found is not None, said + process.stderr.read()
    return found[1]


SAYS_BACK = """
import socket, ssl, sys
from websockets.sync.client import connect
host, port, ca = sys.argv[1:]
plain = socket.create_connection(("127.0.0.1", int(port)))
trust = ssl.create_default_context(cafile=ca)
with connect(f"wss://{host}:{port}/echo", sock=plain, ssl=trust, proxy=None) as there:
    there.send("over a WebSocket")
    print(there.recv())
"""


def test_fastapi(namespace, start):
    process = start(namespace, sys.executable, EXAMPLES / "fastapi_app.py")
    url = address_of(process)
    assert url.startswith("https://my-api.tunnel.localhost:")
    assert json.loads(namespace.curl(*RETRY, f"{url}/items/5").stdout) == {"item": 5}
    assert namespace.curl("--write-out", "%{http_code}", f"{url}/items/five").stdout.endswith(b"422")
    host, _, port = url.removeprefix("https://").partition(":")
    said = namespace.run(sys.executable, "-c", SAYS_BACK, host, port, str(namespace.edge.ca))
    assert said.stdout == b"over a WebSocket\n", said.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (0, -signal.SIGINT)
    assert b"no open tunnel" in namespace.curl(url).stdout


@pytest.mark.slow
def test_fastapi_that_is_started_by_the_tunnel(namespace, start):
    blocks = steps_of((EXAMPLES / "fastapi.md").read_text())
    (line,) = (block.text for block in blocks if block.kind == "sh")
    words = line.split()
    at = words.index("uvicorn")
    words[at : at + 1] = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES)]
    words.insert(words.index("run") + 1, "--json")
    process = start(namespace, sys.executable, "-m", *words)
    url = json.loads(process.stdout.readline())["url"]
    assert json.loads(namespace.curl("--fail", f"{url}/items/5").stdout) == {"item": 5}
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_flask(namespace, start):
    process = start(namespace, sys.executable, EXAMPLES / "flask_app.py")
    url = address_of(process)
    assert url.startswith("https://my-site.tunnel.localhost:")
    assert namespace.curl(*RETRY, f"{url}/?name=visitor").stdout == b"Hello, visitor!"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


VISIT = """\
import os, subprocess
command = ["curl", "-sS", "--cacert", os.environ["QUICTUNNEL_CA"], URL + "/hello.txt"]
print(subprocess.check_output(command, text=True))
"""


@pytest.mark.slow
def test_jupyter(namespace, tmp_path):
    """The notebook by a real kernel, with a visit between its cells."""
    for module in ("nbclient", "ipykernel"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    page = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    sources = ["".join(cell["source"]) for cell in page["cells"]]
    document = (EXAMPLES / "jupyter.md").read_text()
    assert all(source in document for source in (*sources[0].splitlines(), *sources[1:]))

    visit = VISIT.replace(
        "URL", 'get_ipython().magics_manager.registry["QuictunnelMagics"].tunnels.displays()[0].tunnel.url'
    )
    page["cells"].insert(2, page["cells"][0] | {"id": "visit", "source": [visit]})
    (tmp_path / "notebook.ipynb").write_text(json.dumps(page))
    (tmp_path / "hello.txt").write_text("from a notebook")
    script = str(Path(sys.executable).with_name("jupyter-execute"))
    environ = children_environment(namespace.edge) | {"HOME": str(tmp_path), "JUPYTER_PLATFORM_DIRS": "1"}
    done = namespace.run(script, "notebook.ipynb", "--output", "done", env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "done.ipynb").read_text())["cells"]
    (shown,) = cells[1]["outputs"]
    assert '<a href="https://my-notebook.tunnel.localhost:' in "".join(shown["data"]["text/html"])
    assert "from a notebook" in "".join(cells[2]["outputs"][0]["text"])
    assert "".join(cells[3]["outputs"][0]["text"]) == "1 closed\n"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_gradio(namespace, start, tmp_path):
    """Gradio from the index, in an environment of its own."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    installed = subprocess.run(
        [python, "-m", "pip", "--quiet", "install", "gradio"],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"gradio cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # What quictunnel needs, behind what Gradio brought.
    (site / "others.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    home = f"HOME={tmp_path}"
    process = start(namespace, "env", "-u", "PYTHONPATH", home, python, EXAMPLES / "gradio_app.py")
    url = address_of(process)
    assert url.startswith("https://my-demo.tunnel.localhost:")
    assert json.loads(namespace.curl(*RETRY, f"{url}/config").stdout)["root"] == url
    page = namespace.curl("--fail", f"{url}/").stdout.decode()
    assert "http://" not in "".join(re.findall(r'(?:src|href)="([^"]*)"', page))
    asked = namespace.curl("--json", '{"data": ["you"]}', f"{url}/gradio_api/call/greet")
    answered = namespace.curl(f"{url}/gradio_api/call/greet/{json.loads(asked.stdout)['event_id']}")
    assert b'event: complete\ndata: ["Hello, you!"]' in answered.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
def test_vite(public, start, tmp_path):
    """Vite from the registry, with and without the line, and its WebSocket."""
    npm, node = need("npm"), need("node")
    page = tmp_path / "page"
    page.mkdir()
    (page / "package.json").write_text('{"private": true, "type": "module"}')
    (page / "index.html").write_text("<title>From Vite</title>")
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "vite@7"],
        cwd=page,
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"vite cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    words = next(step.text for step in steps_of((EXAMPLES / "vite.md").read_text()) if step.kind == "sh")
    vite, tunnel = (line.split() for line in words.splitlines())
    assert vite[:2] == ["npx", "vite"]
    vite[:2] = [node, "node_modules/vite/bin/vite.js"]
    opened = start(public, sys.executable, "-m", *tunnel, "--json")
    url = json.loads(opened.stdout.readline())["url"]
    assert url.startswith(f"https://my-page.{DOMAIN}:")

    def serve():
        return start(public, "sh", "-c", 'cd page && exec "$@"', "vite", *vite)

    serving = serve()
    patient = [word for word in RETRY if word != "--fail"]
    refused = public.curl(*patient, url)
    assert b"Blocked request" in refused.stdout
    serving.terminate()
    serving.wait(20)

    shutil.copy(EXAMPLES / "vite.config.js", page)
    serve()
    assert b"From Vite" in public.curl(*RETRY, url).stdout
    client = public.curl("--fail", f"{url}/@vite/client").stdout.decode()
    token = re.search(r'wsToken = "([^"]+)"', client)[1]
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        "Sec-WebSocket-Protocol: vite-hmr",
        f"Origin: {url}",
    )
    headers = [word for header in upgrade for word in ("--header", header)]
    upgraded = public.curl("--http1.1", "--include", "--max-time", "3", *headers, f"{url}/?token={token}")
    assert upgraded.stdout.startswith(b"HTTP/1.1 101 ")
    assert b'{"type":"connected"}' in upgraded.stdout


@pytest.mark.long
def test_postgres(public, start):
    """Debian's Postgres, configured as the page says, asked by psql as the page says."""
    need("psql")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("postgresql is not installed")
    programs = found[-1].parent
    try:
        owner = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("there is no user postgres, and root may not run it")
    blocks = steps_of((EXAMPLES / "postgres.md").read_text())
    files = {block.title: block.text for block in blocks if block.title}
    tunnel, visit = (block.text for block in blocks if block.kind == "sh")

    as_owner = (
        need("setpriv"),
        "--reuid",
        str(owner.pw_uid),
        "--regid",
        str(owner.pw_gid),
        "--clear-groups",
        "--",
    )
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        password = Path(directory) / "password"
        password.write_text("of the colleague")
        for path in (Path(directory), password):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        made = public.run(
            *as_owner, str(programs / "initdb"), "-D", str(data), "-U", "colleague", "--auth", "scram-sha-256",
            "--pwfile", str(password), cwd=directory,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        subprocess.run(
            [need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", f"/CN={DOMAIN}", "-keyout", str(data / "server.key"), "-out", str(data / "server.crt")],
            check=True, capture_output=True,
        )  # fmt: skip
        for name in ("server.key", "server.crt"):
            os.chown(data / name, owner.pw_uid, owner.pw_gid)
        (data / "server.key").chmod(0o600)
        (data / "pg_hba.conf").write_text(files["pg_hba.conf"])
        with (data / "postgresql.conf").open("a") as config:
            config.write(files["postgresql.conf"] + "unix_socket_directories = ''\n")
        serving = start(public, *as_owner, programs / "postgres", "-D", data)
        while "ready to accept connections" not in (line := serving.stderr.readline()):
            assert line, "it ended"

        words = tunnel.replace("203.0.113.0/24", "127.0.0.0/8").split()
        opened = start(public, sys.executable, "-m", *words, "--json")
        assert json.loads(opened.stdout.readline())["tcp_socket"][1] == 20432
        environ = os.environ | {"PGPASSWORD": "of the colleague"}
        ask = "select ssl, current_user from pg_stat_ssl where pid = pg_backend_pid()"
        command = visit.strip().replace("server.crt", str(data / "server.crt"))
        asked = public.run("sh", "-c", f'{command} -Atc "{ask}"', env=environ)
        assert asked.stdout == b"t|colleague\n", asked.stderr
        plain = public.run("sh", "-c", command.replace("verify-ca", "disable") + " -Atc 'select 1'", env=environ)
        assert b"no encryption" in plain.stderr


def test_every_example_is_there():
    index = (EXAMPLES / "index.md").read_text()
    for page in EXAMPLES.glob("*.md"):
        assert f"({page.name})" in index or page.name == "index.md"
