"""The files of docs/deploy: judged by the programs whose they are, and in what the edge depends on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import compose_spec
import kubernetes_validate
import pytest
import yaml

from edge_server.cli.health import health
from edge_server.config.edge_config import EdgeConfig, parse
from edge_server.systemd import ACME_HTTP_NAME
from quictunnel.shared.paths import default_state_dir

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
EXPOSURE = 3.0
"""The most that systemd-analyze may say of the service; what it says of most is 9."""


def need(program: str) -> str:
    path = shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


# systemd.


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a Python that is there in the place of the one that will be."""
    for path in (DEPLOY / "systemd").glob("quictunnel-edge*.*"):
        text = path.read_text()
        assert path.suffix != ".service" or "/opt/quictunnel/bin/python" in text
        (tmp_path / path.name).write_text(text.replace("/opt/quictunnel/bin/python", sys.executable))
    return tmp_path


def test_systemd_finds_nothing_wrong_with_the_units(units):
    names = [str(path) for path in sorted(units.iterdir())]
    assert len(names) == 3
    ended = subprocess.run(
        [need("systemd-analyze"), "verify", "--man=no", *names],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_verify_would_have_found_something(units):
    unit = units / "quictunnel-edge.service"
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHom=yes"))
    ended = subprocess.run(
        [need("systemd-analyze"), "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert "ProtectHom" in ended.stderr


def test_the_service_is_exposed_to_little(units):
    ended = subprocess.run(
        [
            need("systemd-analyze"),
            "security",
            "--offline=true",
            "--no-pager",
            str(units / "quictunnel-edge.service"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", ended.stdout)
    assert found is not None
    print(f"systemd-analyze security: {found[1]}")
    assert float(found[1]) < EXPOSURE


def seconds_of(text: str, name: str) -> float:
    found = re.search(rf"^{name}=([0-9]+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_the_socket_for_validators_is_called_what_the_edge_looks_for():
    text = (DEPLOY / "systemd" / "quictunnel-edge-http.socket").read_text()
    assert f"\nFileDescriptorName={ACME_HTTP_NAME}\n" in text
    assert "\nService=quictunnel-edge.service\n" in text


def test_the_service_may_stop_as_slowly_as_the_edge_does():
    text = (DEPLOY / "systemd" / "quictunnel-edge.service").read_text()
    assert seconds_of(text, "TimeoutStopSec") > EdgeConfig(state_dir=Path()).grace


def test_the_command_for_the_operator_is_one_for_a_shell():
    path = DEPLOY / "systemd" / "quictunnel-edge-command"
    assert os.access(path, os.X_OK)
    subprocess.run(["sh", "-n", str(path)], check=True)


# Docker.


def test_hadolint_finds_nothing_wrong_with_the_dockerfile():
    ended = subprocess.run([need("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_hadolint_would_have_found_something(tmp_path):
    other = tmp_path / "Dockerfile"
    other.write_text(DOCKERFILE.read_text().replace("--no-install-recommends ", ""))
    ended = subprocess.run([need("hadolint"), str(other)], capture_output=True, text=True, check=False)
    assert "DL3015" in ended.stdout


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def environment_of_the_image() -> dict[str, str]:
    (last,) = [rest for word, rest in instructions() if word == "ENV" and "PYTHONUNBUFFERED" in rest]
    return dict(part.split("=", 1) for part in shlex.split(last))


def test_files_copied_into_the_image_exist():
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")
    ]
    assert copied
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name


def test_image_runs_unprivileged_with_a_health_check():
    last = dict(instructions())
    assert last["USER"] == "65532:65532"
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["HEALTHCHECK"].endswith('CMD ["python", "-m", "edge_server", "health"]')
    assert last["ENTRYPOINT"] == '["python", "-m", "edge_server"]'


def usual_state_dir(environ: dict[str, str]) -> Path:
    """Return where ``health`` and ``token`` look when they are not told."""
    with patch.dict(os.environ, environ):
        return health.make_context("health", []).params["state_dir"]


def test_the_image_listens_on_the_ports_that_it_exposes():
    environ = environment_of_the_image()
    assert environ["QUICTUNNEL_EDGE_SERVER_CONFIG"] == "/etc/quictunnel/edge.toml"
    config = parse(["--config", str(DEPLOY / "docker" / "edge.toml")], environ)
    exposed = dict(instructions())["EXPOSE"].split()
    ports = config.tcp_ports
    assert exposed == [f"{config.https[1]}/tcp", f"{config.quic[1]}/udp", f"{ports[0]}-{ports[-1]}/tcp"]
    assert str(config.state_dir) == dict(instructions())["VOLUME"]
    assert usual_state_dir(environ) == config.state_dir
    assert usual_state_dir({}) == default_state_dir()


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())["services"]["edge"]


@pytest.mark.parametrize(
    ("wrong", "right"), [("", ""), ("read_onyl:", "read_only:"), ("45parsecs", "45s"), ("- 1", "- state:/var")]
)
def test_the_compose_file_follows_the_specification(wrong, right):
    text = (DEPLOY / "docker" / "compose.yaml").read_text()
    assert right in text
    if not wrong:
        assert compose_spec.PyCompose.from_yaml(text).service_names() == ["edge"]
        return
    with pytest.raises(ValueError, match="edge"):
        compose_spec.PyCompose.from_yaml(text.replace(right, wrong, 1))


def test_compose_file_grants_only_what_is_needed(service):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
    config = parse(
        ["--config", str(DEPLOY / "docker" / "edge.toml")], environment_of_the_image() | service["environment"]
    )
    ports = config.tcp_ports
    assert service["ports"] == [
        f"{config.https[1]}:{config.https[1]}/tcp",
        f"{config.quic[1]}:{config.quic[1]}/udp",
        f"{ports[0]}-{ports[-1]}:{ports[0]}-{ports[-1]}/tcp",
    ]
    assert float(service["stop_grace_period"].removesuffix("s")) > config.grace
    assert (ROOT / "docs" / "deploy" / "docker" / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).exists()


# Kubernetes.


def documents() -> dict[tuple[str, str], Any]:
    found = [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text())]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_manifests_follow_the_schemas_of_kubernetes(path):
    """Strictly: a name that the schema does not know is an error."""
    for one in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(one, "1.31", strict=True)


def test_the_schemas_would_have_found_something():
    deployment = documents()["Deployment", "quictunnel-edge"]
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 75
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.31", strict=True)


def test_every_manifest_is_applied():
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in MANIFESTS]


@pytest.fixture
def config_of_the_cluster(tmp_path: Path) -> EdgeConfig:
    text = documents()["ConfigMap", "quictunnel-edge"]["data"]["edge.toml"]
    tomllib.loads(text)
    (tmp_path / "edge.toml").write_text(text)
    return parse(["--config", str(tmp_path / "edge.toml")], environment_of_the_image())


def test_the_pod_listens_where_the_service_sends(config_of_the_cluster):
    config = config_of_the_cluster
    pod = documents()["Deployment", "quictunnel-edge"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert config.admin is not None
    wanted = {
        ("https", config.https[1], "TCP"),
        ("quic", config.quic[1], "UDP"),
        ("admin", config.admin[1], "TCP"),
        *((f"tcp-{port}", port, "TCP") for port in config.tcp_ports),
    }
    assert {(port["name"], port["containerPort"], port["protocol"]) for port in container["ports"]} == wanted
    service = documents()["Service", "quictunnel-edge"]["spec"]
    # A tunnel's address has the port that the edge listens on, so the service may not change it.
    sent = {(port["targetPort"], port["port"], port["protocol"]) for port in service["ports"]}
    assert sent == {entry for entry in wanted if entry[0] != "admin"}
    assert service["externalTrafficPolicy"] == "Local"
    assert {port["protocol"] for port in service["ports"]} == {"TCP", "UDP"}


def test_the_pod_has_time_to_stop_and_nothing_that_it_does_not_need(config_of_the_cluster):
    deployment = documents()["Deployment", "quictunnel-edge"]["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > config_of_the_cluster.grace
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == "65532:65532"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]
    probes = {name: container[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")}
    assert probes == {"livenessProbe": "/healthz", "readinessProbe": "/readyz"}


def test_pod_mounts_match_the_edges_paths(config_of_the_cluster):
    found = documents()
    pod = found["Deployment", "quictunnel-edge"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert ("Secret", volumes["token"]["secret"]["secretName"]) in found
    assert ("PersistentVolumeClaim", volumes["state"]["persistentVolumeClaim"]["claimName"]) in found
    assert ("ConfigMap", volumes["config"]["configMap"]["name"]) in found
    state = environment_of_the_image()["QUICTUNNEL_EDGE_SERVER_STATE_DIR"]
    assert {state, f"{state}/token", "/tmp"} <= set(mounts)
    assert config_of_the_cluster.cert is not None
    assert str(config_of_the_cluster.cert.parent) in mounts
    assert container["args"] == ["--config", "/etc/quictunnel/config/edge.toml"]
    assert "/etc/quictunnel/config" in mounts
    selector = found["PodDisruptionBudget", "quictunnel-edge"]["spec"]["selector"]["matchLabels"]
    assert selector == found["Deployment", "quictunnel-edge"]["spec"]["template"]["metadata"]["labels"]


# The image's steps, by hand.


def run_steps(stage: Path, steps: list[str]) -> None:
    """RUN lines of the Dockerfile, in directories of ours."""
    places = {"/wheels": stage / "wheels", "/opt/quictunnel": stage / "opt" / "quictunnel"}
    for step in steps:
        line = step
        for theirs, ours in places.items():
            line = line.replace(theirs, str(ours))
        # As the SHELL line says; a Python of the system, as in the image, and not the tests' environment.
        subprocess.run(["bash", "-euo", "pipefail", "-c", line], cwd=stage / "src", check=True, timeout=900)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_steps_of_the_image_make_an_edge_that_runs(tmp_path, monkeypatch):
    """The steps but those of apt-get and users: wheels of the copied files, a virtual environment of its own,
    and the edge in it, checked with Docker's health command."""
    need("cargo")
    (tmp_path / "src").mkdir()
    steps = []
    for word, rest in instructions():
        if word == "FROM" and steps:
            break  # what follows is of the image itself
        if word == "COPY" and not rest.startswith("--from"):
            for name in rest.split()[:-1]:
                source = ROOT / name
                ignore = shutil.ignore_patterns("target", "fuzz", "__pycache__")
                target = tmp_path / "src" / name
                shutil.copytree(source, target, ignore=ignore) if source.is_dir() else shutil.copy(source, target)
        if word == "RUN" and "apt-get" not in rest:
            steps.append(rest)
    assert len(steps) == 3
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    path = os.environ["PATH"].split(":")
    monkeypatch.setenv("PATH", ":".join(part for part in path if part != str(Path(sys.executable).parent)))
    run_steps(tmp_path, steps)
    python = tmp_path / "opt" / "quictunnel" / "bin" / "python"
    packages = subprocess.run(
        [python, "-c", "import edge_server.config.edge_config as c; print(c.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installed = Path(packages.strip()).parents[2]
    assert installed.is_relative_to(tmp_path)
    for package in ("quictunnel", "edge_server"):
        listed = subprocess.run(["git", "ls-files", package], cwd=ROOT, capture_output=True, text=True, check=True)
        absent = [name for name in listed.stdout.split() if not (installed / name).exists()]
        assert absent == [], "pyproject.toml, package-data"
    environ = environment_of_the_image() | {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "QUICTUNNEL_EDGE_SERVER_STATE_DIR": str(tmp_path / "state"),
        "QUICTUNNEL_EDGE_SERVER_CONFIG": str(DEPLOY / "docker" / "edge.toml"),
        "QUICTUNNEL_EDGE_SERVER_HTTPS": "127.0.0.1:0",
        "QUICTUNNEL_EDGE_SERVER_QUIC": "127.0.0.1:0",
        "QUICTUNNEL_EDGE_SERVER_ENGINE": "native",
    }
    command = [python, "-m", "edge_server"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as edge:
        try:
            assert edge.stdout is not None
            assert any(line.startswith("Try:") for line in edge.stdout)
            health = subprocess.run([*command, "health"], env=environ, check=False, timeout=30, cwd=tmp_path)
            assert health.returncode == 0
        finally:
            edge.terminate()
        assert edge.wait(30) == 0
    assert subprocess.run([*command, "health"], env=environ, check=False, cwd=tmp_path).returncode == 1
