"""Applications behind TLS that ends at the edge: the page about them, its files and commands as they stand."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.edge_process import children_environment
from tests.harness.netns import new_namespace
from tests.harness.programs import need
from tests.harness.tutorial_runner import steps_of

ROOT = Path(__file__).parents[3]
STEPS = steps_of((ROOT / "docs" / "how-to" / "behind-tls.md").read_text())
FILES = {step.title: step.text for step in STEPS if step.title}
COMMANDS = {re.search(r"--name (\S+)", step.text)[1]: step.text for step in STEPS if step.kind == "sh"}
DOMAIN = "tunnel.example.com"


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """An edge at the port and domain that the page speaks of, and every name below it."""
    directory = tmp_path_factory.mktemp("behind-tls")
    with new_namespace(directory, DOMAIN, *(f"{name}.{DOMAIN}" for name in COMMANDS)) as namespace:
        namespace.start_edge("--domain", DOMAIN, "--https", "127.0.0.1:443")
        yield namespace


@pytest.fixture
def project(tmp_path):
    """A directory with the file that all of them share."""
    (tmp_path / "behind_tls.py").write_text(FILES["behind_tls.py"])
    return tmp_path


@contextmanager
def start_shared(namespace, directory, name, *replaced):
    """Run a command of the page there; gives the public address. ``replaced``: words that are others here."""
    command = COMMANDS[name].replace("quictunnel run", "quictunnel run --json --wait 60")
    for before, after in replaced:
        assert before in command
        command = command.replace(before, after)
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        [*namespace.enter, "sh", "-c", f"exec {command}"],
        env=children_environment(namespace.edge) | {"PATH": scripts, "NEXT_TELEMETRY_DISABLED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        assert json.loads(line)["url"] == f"https://{name}.{DOMAIN}"
        yield f"https://{name}.{DOMAIN}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


def as_it_was(text: str) -> str:
    """Return a file of the page without what the page adds."""
    return re.sub(r"^.*(?:add_middleware|wsgi_app = ).*\n", "", text, flags=re.MULTILINE)


def fetch(namespace, *arguments: str) -> str:
    return namespace.curl("--max-time", "20", *arguments).stdout.decode()


@pytest.mark.parametrize("is_told", [True, pytest.param(False, marks=pytest.mark.long)])
def test_fastapi(namespace, project, is_told):
    (project / "api.py").write_text(FILES["api.py"] if is_told else as_it_was(FILES["api.py"]))
    with start_shared(namespace, project, "my-api") as url:
        where = fetch(namespace, "--output", "/dev/null", "--write-out", "%{redirect_url}", f"{url}/shelf")
        assert (where == f"{url}/shelf/") == is_told
        assert (fetch(namespace, f"{url}/shelf/") == f'"{url}/shelf/"') == is_told


@pytest.mark.parametrize("is_told", [True, pytest.param(False, marks=pytest.mark.long)])
def test_flask(namespace, project, is_told):
    (project / "pages.py").write_text(FILES["pages.py"] if is_told else as_it_was(FILES["pages.py"]))
    with start_shared(namespace, project, "my-site") as url:
        assert (fetch(namespace, url) == f"{url}/") == is_told


FORM = """
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.urls import path

urlpatterns = [path("", lambda r: HttpResponse(r.build_absolute_uri() if r.method == "POST" else get_token(r)))]
"""
LINE = re.search(r"^CSRF_TRUSTED_ORIGINS = .*$", (ROOT / "docs/how-to/behind-tls.md").read_text(), re.MULTILINE)[0]


@pytest.mark.parametrize("told", ["scheme", "origins", pytest.param("nothing", marks=pytest.mark.long)])
def test_django(namespace, project, told):
    """A project as Django makes it, and a form that a browser sends, with its Origin."""
    pytest.importorskip("django", reason="django is not installed")
    django = [sys.executable, "-m", "django", "startproject", "mysite", "."]
    subprocess.run(django, cwd=project, check=True)
    if told == "scheme":
        (project / "mysite" / "wsgi.py").write_text(FILES["mysite/wsgi.py"])
    with (project / "mysite" / "settings.py").open("a") as settings:
        # Without the wrapper these would be enough to make a loop of redirects, or to lose the session.
        more = "SECURE_SSL_REDIRECT = CSRF_COOKIE_SECURE = True\n" if told == "scheme" else ""
        more += LINE if told == "origins" else ""
        settings.write(FILES["mysite/settings.py"] + more)
    (project / "mysite" / "urls.py").write_text(FORM)
    jar = str(project / "jar")
    with start_shared(namespace, project, "my-form") as url:
        token = fetch(namespace, "--cookie-jar", jar, url)
        sent = ("--data", f"csrfmiddlewaretoken={token}", "--header", f"Origin: {url}")
        answer = fetch(namespace, "--cookie", jar, *sent, f"{url}/")
        expected = {"scheme": f"{url}/", "origins": f"{url}/".replace("https", "http")}
        if told in expected:
            assert answer == expected[told]
        else:
            assert "Origin checking failed" in answer
        assert "Forbidden" in fetch(
            namespace, "--cookie", jar, *sent[:2], "--header", "Origin: https://a.example", url
        )


def polls(namespace, url: str) -> bool:
    """Return True if Socket.IO opens a session for a browser's page of the same origin."""
    polling = f"{url}/socket.io/?EIO=4&transport=polling"
    assert "sid" not in fetch(namespace, "--header", "Origin: https://a.example", polling)
    return "sid" in fetch(namespace, "--header", f"Origin: {url}", polling)


@pytest.mark.parametrize("is_told", [True, pytest.param(False, marks=pytest.mark.long)])
def test_flask_socketio(namespace, project, is_told):
    pytest.importorskip("flask_socketio", reason="flask-socketio is not installed")
    (project / "chat.py").write_text(FILES["chat.py"] if is_told else as_it_was(FILES["chat.py"]))
    with start_shared(namespace, project, "my-chat") as url:
        assert polls(namespace, url) == is_told


@pytest.mark.parametrize("is_told", [True, pytest.param(False, marks=pytest.mark.long)])
def test_socketio_by_asgi(namespace, project, is_told):
    pytest.importorskip("socketio", reason="python-socketio is not installed")
    text = FILES["events.py"]
    (project / "events.py").write_text(text if is_told else re.sub(", cors_allowed_origins=.*]", "", text))
    with start_shared(namespace, project, "my-events") as url:
        assert polls(namespace, url) == is_told


@pytest.mark.long
@pytest.mark.timeout(600)
def test_next(namespace, project):
    """Next.js from the registry: a script of its page, asked for as a browser does, with and without the line."""
    npm = need("npm")
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "next@16", "react@19", "react-dom@19"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"next cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    (project / "app").mkdir()
    (project / "app" / "page.js").write_text("export default function Page() { return <p>From Next</p>; }")
    (project / "app" / "layout.js").write_text(
        "export default function Layout({ children }) { return <html><body>{children}</body></html>; }"
    )
    for config, status in (("module.exports = {};", "403"), (FILES["next.config.js"], "200")):
        (project / "next.config.js").write_text(config)
        with start_shared(
            namespace, project, "my-page", ("npx next", "node node_modules/next/dist/bin/next")
        ) as url:
            page = fetch(namespace, "--retry", "30", "--retry-delay", "1", "--fail", url)
            assert "From Next" in page
            script = re.search(r'src="(/_next/static[^"]*)"', page)[1]
            as_module = ("--header", f"Origin: {url}", "--write-out", "%{http_code}", "--output", "/dev/null")
            assert fetch(namespace, *as_module, url + script) == status


@pytest.mark.long
@pytest.mark.parametrize("is_told", [True, False])
def test_a_registry(namespace, project, is_told):
    """Debian's docker-registry, where an upload begins."""
    registry = need("docker-registry")
    text = FILES["config.yml"]
    (project / "config.yml").write_text(text if is_told else text.replace("  relativeurls: true\n", ""))
    with start_shared(namespace, project, "my-registry", ("registry serve", f"{registry} serve")) as url:
        where = fetch(namespace, "--request", "POST", "--dump-header", "-", f"{url}/v2/app/blobs/uploads/")
        assert ("\r\nLocation: /v2/" in where) == is_told
        assert ("\r\nLocation: http://" in where) != is_told


def test_the_page_is_tested():
    assert set(COMMANDS) == {"my-api", "my-site", "my-form", "my-chat", "my-events", "my-page", "my-registry"}
