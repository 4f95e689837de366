from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker
from pydantic import BaseModel, ConfigDict, Field, model_validator

from virnucpro_exporter import __version__
from virnucpro_exporter.cli import cli

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
KUBERNETES = ROOT / "deploy" / "kubernetes" / "run.yaml"
CERTIFICATES = ROOT / "deploy" / "dask-certificates.sh"
UNIT = ROOT / "deploy" / "virnucpro-exporter.service"
SETTINGS = dict(re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
# By version for people, by digest for machines; what is built here has no digest yet.
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(?:-[\w.-]+)?(?P<digest>@sha256:[0-9a-f]{64})?")


def filled(text: str, settings: Mapping[str, str]) -> str:
    """A text with its variables replaced, as Compose does."""

    def value(found: re.Match[str]) -> str:
        name, kind, other = found.groups()
        given = settings.get(name, "")
        if kind == ":+":
            return other if given else ""
        return given or other

    done = re.sub(r"\$\{(\w+)(:[-+])([^}]*)\}", value, text)
    assert "$" not in done, done
    return done


def compose(settings: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """The content of the Compose file with these settings."""
    content: dict[str, Any] = yaml.safe_load(filled(COMPOSE.read_text(), settings))
    return content


SYSTEMD = shutil.which("systemd-analyze")
SERVICES = compose()["services"]
every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_compose_file_is_of_the_specification() -> None:
    """The schema of the Compose specification, as check-jsonschema carries it, accepts the file."""
    checked = subprocess.run(
        [
            sys.executable,
            *("-W", "ignore", "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(COMPOSE)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@every_service
def test_a_service_is_confined(name: str) -> None:
    """No root, no rights, nothing writable but what it needs; an image that never changes."""
    service = SERVICES[name]
    pinned = PINNED.fullmatch(service["image"])
    assert pinned
    assert pinned["digest"] or "build" in service
    assert {"cpus", "memory", "pids"} == set(service["deploy"]["resources"]["limits"])
    assert int(service["user"].partition(":")[0]) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert "healthcheck" in service or "build" in service  # the Dockerfile has one


def test_our_image_is_this_version() -> None:
    """An old image is not taken for the present program."""
    ours = {service["image"] for service in SERVICES.values() if "build" in service}
    assert ours == {f"virnucpro-exporter:{__version__}"}


@pytest.mark.parametrize("profile", ["", "gpu", "demo"])
def test_everything_mounted_exists(profile: str) -> None:
    """A path that is missing would become an empty folder. All of ours are read-only."""
    content = compose({"COMPOSE_PROFILES": profile})
    for service in content["services"].values():
        for volume in service.get("volumes", ()):
            if isinstance(volume, dict):
                assert (ROOT / volume["source"]).exists(), volume
                assert volume["read_only"]
                assert volume["bind"] == {"create_host_path": False}
                continue
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert rest.endswith(":ro"), volume
            else:
                assert source in content["volumes"]


@pytest.mark.parametrize(
    ("profile", "started"), [("", set()), ("gpu", {"node:9877"}), ("demo", {"simulation:9877"})]
)
def test_what_is_scraped_is_what_is_started(profile: str, started: set[str]) -> None:
    """The simulation is never beside real GPUs, and without a profile neither is there."""
    services = {
        f"{name}:9877"
        for name, service in SERVICES.items()
        if service.get("profiles") == [profile] and profile
    }
    assert services == started
    folder = ROOT / "deploy/targets" / profile
    here = [yaml.safe_load((folder / f"{what}-here.yml").read_text()) for what in ("runs", "nodes")]
    assert {
        target for content in here for group in content for target in group["targets"]
    } == started
    assert all("profiles" in service for service in SERVICES.values() if "build" in service)


def test_targets_are_services_that_listen_there() -> None:
    """Prometheus finds the exporters and Alertmanager under these names."""
    addresses = {
        address
        for path in (ROOT / "deploy/targets").rglob("*.yml")
        for group in yaml.safe_load(path.read_text())
        for address in group["targets"]
    }
    assert addresses == {
        "simulation:9877",
        "node:9877",
        "alertmanager:9093",
        "host.docker.internal:9877",
    }
    assert SERVICES["prometheus"]["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_there_is_no_password_by_default() -> None:
    """Without one that the user set there is no account; with one there is a login."""
    ini = configparser.ConfigParser()
    ini.read(ROOT / "deploy" / "grafana.ini")
    assert ini.getboolean("security", "disable_initial_admin_creation")
    assert ini.getboolean("auth", "disable_login_form")
    assert ini["auth.anonymous"]["org_role"] == "Viewer"
    # Grafana takes no notice of a variable that is empty.
    assert not any(SERVICES["grafana"]["environment"].values())
    given = compose({"GRAFANA_ADMIN_PASSWORD": "from the user"})["services"]["grafana"][
        "environment"
    ]
    assert given == {
        "GF_SECURITY_ADMIN_PASSWORD": "from the user",
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": False,
        "GF_AUTH_DISABLE_LOGIN_FORM": False,
    }


def test_settings_are_those_of_the_example() -> None:
    """`.env.example` lists every variable, with its default, and no secret."""
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text()))
    assert set(SETTINGS) == set(used)
    assert {n: v for n, v in SETTINGS.items() if n != "COMPOSE_PROFILES"} == {
        n: v for n, v in used.items() if n != "COMPOSE_PROFILES"
    }


def test_grafana_finds_what_is_mounted() -> None:
    """The provider of dashboards and the home page name files that the container has."""
    provider = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/virnucpro.yml").read_text())[
        "providers"
    ][0]
    folder = provider["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]
    ini = configparser.ConfigParser()
    ini.read(ROOT / "deploy" / "grafana.ini")
    home = Path(ini["dashboards"]["default_home_dashboard_path"])
    assert str(home.parent) == folder
    assert (ROOT / "grafana/dashboards" / home.name).exists()


def test_dockerfile_is_pinned_and_without_rights() -> None:
    """Its bases never change, it is no root, and it tells its health."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert len(set(bases)) == 1
    pinned = PINNED.fullmatch(bases[0])
    assert pinned
    assert pinned["digest"]
    assert "USER 10001:10001" in lines
    assert any("/-/healthy" in line for line in lines)
    assert SERVICES["simulation"]["user"] == SERVICES["node"]["user"] == "10001:10001"


@pytest.mark.parametrize(
    "command",
    [
        *(SERVICES[name]["command"] for name in ("simulation", "node")),
        shlex.split(re.findall(r'OPTIONS=(--[^"\n]*)', UNIT.read_text())[0]),
    ],
    ids=["simulation", "node", "unit"],
)
def test_commands_are_those_of_the_program(command: list[str]) -> None:
    """Every option exists."""
    name, *options = command if not command[0].startswith("-") else ["serve", *command]
    cli.commands[name].make_context(name, options)


@pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd here")
def test_systemd_accepts_the_unit_and_finds_it_confined(tmp_path: Path) -> None:
    """No unknown setting, and an exposure that systemd calls OK."""
    copy = tmp_path / UNIT.name
    copy.write_text(
        UNIT.read_text().replace("/opt/virnucpro-exporter/bin/virnucpro-exporter", "/bin/true")
    )

    def said(*command: str) -> str:
        done = subprocess.run(
            [str(SYSTEMD), *command, str(copy)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert said("verify") == ""
    level = re.search(r"exposure level .*: ([\d.]+)", said("security", "--offline=true"))
    assert level
    assert float(level[1]) <= 2.0


def test_the_kubernetes_job_fits_together() -> None:
    """Every program takes its options; run and workers see the same files under the same path.

    Workers and run are told the scheduler's address with TLS, and all three programs find Dask's
    settings and certificates.
    """
    job, *_ = yaml.safe_load_all(KUBERNETES.read_text())
    cluster = job["spec"]["cluster"]["spec"]
    pods = [job["spec"]["job"]["spec"], cluster["scheduler"]["spec"], cluster["worker"]["spec"]]
    run, scheduler, worker = (pod["containers"][0] for pod in pods)
    programs = {"virnucpro-exporter run": cli.commands["run"]}
    programs |= {"dask scheduler": dask_scheduler.main, "dask worker": dask_worker.main}
    for container in (run, scheduler, worker):
        name, options = container["command"][:2], container["command"][2:]
        program = programs.pop(" ".join(name))
        program.make_context(" ".join(name), [*options, *container.get("args", ())])
    assert not programs
    assert pods[0]["volumes"] == pods[2]["volumes"]
    address = f"tls://{job['metadata']['name']}-scheduler:8786"
    assert run["args"][:2] == ["--dask", address]
    assert worker["command"][2] == address
    for pod in pods:
        names = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert names == {volume["name"] for volume in pod["volumes"]}
        assert {"dask-settings", "dask-tls"} <= names
    assert run["volumeMounts"] == worker["volumeMounts"]
    assert run["workingDir"] == worker["workingDir"] == run["volumeMounts"][0]["mountPath"]
    assert cluster["scheduler"]["service"]["selector"] == {
        "dask.org/cluster-name": job["metadata"]["name"],
        "dask.org/component": "scheduler",
    }


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Selector(_Strict):
    matchLabels: dict[str, str] = Field(min_length=1)  # noqa: N815 - Kubernetes' own name


class _Peer(_Strict):
    podSelector: _Selector | None = None  # noqa: N815
    namespaceSelector: _Selector | None = None  # noqa: N815

    @model_validator(mode="after")
    def _selects(self) -> _Peer:
        assert self.podSelector or self.namespaceSelector, "nothing would be everything"
        return self


class _Port(_Strict):
    protocol: Literal["TCP"]
    port: int


class _Rule(_Strict):
    peers: list[_Peer] = Field(min_length=1, alias="from")
    ports: list[_Port] | None = Field(default=None, min_length=1)


class _PolicySpec(_Strict):
    podSelector: _Selector  # noqa: N815
    policyTypes: tuple[Literal["Ingress"]]  # noqa: N815
    ingress: list[_Rule]


class _Policy(_Strict):
    """A NetworkPolicy of networking.k8s.io/v1; what is left out of its schema, we do not use."""

    apiVersion: Literal["networking.k8s.io/v1"]  # noqa: N815
    kind: Literal["NetworkPolicy"]
    metadata: dict[str, str]
    spec: _PolicySpec


def test_nothing_but_its_own_pods_reaches_the_dask_workers() -> None:
    """The policy holds for all pods of the run; of the others each has named ports alone."""
    job, _, content = yaml.safe_load_all(KUBERNETES.read_text())
    policy = _Policy.model_validate(content).spec
    ours = {"dask.org/cluster-name": job["metadata"]["name"]}
    assert policy.podSelector.matchLabels == ours
    own, *others = policy.ingress
    assert [peer.podSelector and peer.podSelector.matchLabels for peer in own.peers] == [ours]
    assert own.peers[0].namespaceSelector is None
    ports = {
        peer.namespaceSelector
        and peer.namespaceSelector.matchLabels["kubernetes.io/metadata.name"]: [
            port.port for port in rule.ports or ()
        ]
        for rule in others
        for peer in rule.peers
    }
    assert ports == {"monitoring": [9877]}


def test_dask_on_kubernetes_refuses_peers_without_a_certificate(tmp_path: Path) -> None:
    """The ConfigMap has the settings that the script for certificates writes, for the Secret."""
    job, settings, _ = yaml.safe_load_all(KUBERNETES.read_text())
    volumes = {volume["name"]: volume for volume in job["spec"]["job"]["spec"]["volumes"]}
    assert volumes["dask-settings"]["configMap"]["name"] == settings["metadata"]["name"]
    folder = tmp_path / "it's"
    subprocess.run([CERTIFICATES, folder], check=True)
    comm = yaml.safe_load((folder / "dask.yaml").read_text())["distributed"]["comm"]
    of_pods = yaml.safe_load(settings["data"]["tls.yaml"])
    pair = {"cert": f"{folder}/tls.crt", "key": f"{folder}/tls.key"}
    roles = dict.fromkeys(("scheduler", "worker", "client"), pair)
    tls = {"ca-file": f"{folder}/ca.crt", **roles}
    assert comm == {"default-scheme": "tls", "require-encryption": True, "tls": tls}
    of_pods = json.loads(json.dumps(of_pods).replace("/etc/dask-tls", str(folder)))
    assert of_pods == {"distributed": {"comm": comm}}
    assert {path.name for path in folder.iterdir()} == {"ca.crt", "tls.crt", "tls.key", "dask.yaml"}
    assert folder.stat().st_mode & 0o777 == 0o700
    again = subprocess.run([CERTIFICATES, folder], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr == f"{folder} has certificates already; remove it first\n"


def test_the_danger_is_told_first() -> None:
    """Who reads only the first lines about a Dask cluster still reads what it needs TLS for."""
    document = (ROOT / "docs" / "cluster.md").read_text().partition("\n\n")[2]
    for text in (document, KUBERNETES.read_text()):
        first = " ".join(text.replace("#", "").split()[:60])
        assert "TLS" in first
        assert re.search(r"ny client that can reach a port of .* can run code", first)
