"""The Helm chart, as Helm renders it, and the plain file that is made of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from tests.monitoring.programs import tool
from tests.monitoring.rules import RULES, load, rules_of
from virnucpro_exporter import __version__
from virnucpro_exporter.cli import cli

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "virnucpro-exporter"
PLAIN = ROOT / "deploy" / "kubernetes" / "exporter.yaml"
HELM = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")
IMAGE = "image.repository=registry.example.org/virnucpro-exporter"
RULE, MONITOR = "prometheusRule.enabled=true", "podMonitor.enabled=true"

pytestmark = pytest.mark.skipif(HELM is None, reason="there is no helm here")

Object = dict[str, Any]


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """What Helm says."""
    return subprocess.run(
        [str(HELM), *map(str, words)], capture_output=True, text=True, check=False, timeout=100
    )


def template(*settings: str) -> str:
    """The objects of the chart, with these values and an image."""
    given = [word for setting in (IMAGE, *settings) for word in ("--set", setting)]
    done = helm("template", "virnucpro-exporter", CHART, "--namespace", "monitoring", *given)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(*settings: str) -> list[Object]:
    """The same, parsed."""
    return [content for content in yaml.safe_load_all(template(*settings)) if content]


def only(objects: list[Object], kind: str) -> Object:
    """The one object of a kind."""
    (found,) = (content for content in objects if content["kind"] == kind)
    return found


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Metadata(_Strict):
    name: str
    namespace: str
    labels: dict[str, str]


class _Labels(_Strict):
    matchLabels: dict[str, str] = Field(min_length=1)  # noqa: N815 - Kubernetes' own names here


class _Namespaces(_Strict):
    any: bool | None = None
    matchNames: list[str] | None = None  # noqa: N815


class _Relabeling(_Strict):
    targetLabel: str  # noqa: N815
    replacement: str | None = None
    sourceLabels: list[str] | None = None  # noqa: N815


class _Endpoint(_Strict):
    port: str
    interval: str
    scrapeTimeout: str  # noqa: N815
    relabelings: list[_Relabeling]
    scheme: str | None = None
    tlsConfig: dict[str, Any] | None = None  # noqa: N815


class _MonitorSpec(_Strict):
    selector: _Labels
    namespaceSelector: _Namespaces | None = None  # noqa: N815
    podMetricsEndpoints: list[_Endpoint]  # noqa: N815


class _Rule(_Strict):
    expr: str
    record: str | None = None
    alert: str | None = None
    for_: str | None = Field(default=None, alias="for")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Group(_Strict):
    name: str
    rules: list[_Rule]
    interval: str | None = None


class _RuleSpec(_Strict):
    groups: list[_Group]


class _Custom(_Strict):
    """What we use of the Prometheus operator's objects."""

    apiVersion: str = Field(pattern=r"^monitoring\.coreos\.com/v1$")  # noqa: N815
    kind: str
    metadata: _Metadata


class _PodMonitor(_Custom):
    spec: _MonitorSpec


class _PrometheusRule(_Custom):
    spec: _RuleSpec


def test_helm_finds_no_fault() -> None:
    """Strictly."""
    done = helm("lint", CHART, "--strict", "--set", IMAGE)
    assert done.returncode == 0, done.stdout
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@pytest.mark.parametrize(
    "settings",
    [
        (),
        (RULE, MONITOR, "dashboards.enabled=true", "networkPolicy.enabled=true"),
        (
            *("webConfig.secretName=web", "webConfig.tls=true", MONITOR, "port=9999"),
            *("podMonitor.endpoint.tlsConfig.insecureSkipVerify=true", "args={--gpu-links}"),
            *("podMonitor.runs.namespaces={genomics,soil}", "nodeSelector=null", "resources=null"),
            *("service.enabled=false", "serviceAccount.create=false", "runtimeClassName="),
            *("imagePullSecrets[0].name=pull", "podAnnotations.a=b", "podLabels.c=d"),
        ),
    ],
    ids=["defaults", "all", "other"],
)
def test_all_objects_are_as_kubernetes_wants_them(settings: tuple[str, ...], version: str) -> None:
    """No field that Kubernetes, or the Prometheus operator, does not know."""
    for content in render(*settings):
        if content["kind"] == "PodMonitor":
            _PodMonitor.model_validate(content)
        elif content["kind"] == "PrometheusRule":
            _PrometheusRule.model_validate(content)
        else:
            kubernetes_validate.validate(content, version, strict=True)
        assert content["metadata"]["namespace"] == "monitoring"


def test_the_exporter_starts_confined_with_its_options() -> None:
    """`serve` takes them; no root, no rights, nothing writable but /tmp; a limit of memory."""
    objects = render("args={--gpu-links,--gpu-processes}", "webConfig.secretName=web")
    pod = only(objects, "DaemonSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command, *options = container["args"]
    # The file is the pod's.
    options = [option for option in options if not option.startswith("--web-config-file=")]
    context = cli.commands[command].make_context(command, options)
    assert context.params["gpu_links"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in container["resources"]["limits"]
    assert not any("nvidia.com/gpu" in text for text in container["resources"]["limits"])
    monitors = [c for c in render(MONITOR) if c["kind"] == "PodMonitor"]
    jobs = [m["spec"]["podMetricsEndpoints"][0]["relabelings"][0] for m in monitors]
    assert [job["replacement"] for job in jobs] == ["virnucpro-exporter", "virnucpro"]


def test_the_rules_are_those_of_the_repository(tmp_path: Path) -> None:
    """Unchanged by default, and still valid with links, labels and without an alert."""
    groups = only(render(RULE), "PrometheusRule")["spec"]["groups"]
    written = {group["name"]: group for path in RULES for group in load(path)["groups"]}
    assert {group["name"]: group for group in groups} == written
    changed = only(
        render(
            *(RULE, "prometheusRule.disabled={VirnucproQueueSkew}"),
            *("prometheusRule.runbookBase=https://wiki.example.org/gpu",),
            *("prometheusRule.grafanaUrl=https://grafana.example.org/",),
            *("prometheusRule.alertLabels.team=genomics",),
        ),
        "PrometheusRule",
    )["spec"]
    alerts = {rule["alert"]: rule for rule in rules_of(changed) if "alert" in rule}
    assert "VirnucproQueueSkew" not in alerts
    stalled = alerts["VirnucproGpuStalled"]
    assert stalled["labels"] == {"severity": "critical", "team": "genomics"}
    links = stalled["annotations"]
    assert links["runbook_url"] == "https://wiki.example.org/gpu#virnucprogpustalled"
    assert links["dashboard_url"].startswith(
        "https://grafana.example.org/d/virnucpro-gpu?var-instance="
    )
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(changed))
    checked = tool("promtool", "check", "rules", file)
    assert checked.returncode == 0, checked.stdout


def test_the_dashboards_are_those_of_the_repository() -> None:
    """Byte for byte, each in a ConfigMap that Kubernetes takes."""
    maps = [c for c in render("dashboards.enabled=true") if c["kind"] == "ConfigMap"]
    found = {name: text for content in maps for name, text in content["data"].items()}
    folder = ROOT / "grafana" / "dashboards"
    assert found == {path.name: path.read_text() for path in folder.glob("*.json")}
    for content in maps:
        assert content["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert len(json.dumps(content)) < 1_000_000


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (("image.repository=",), "image.repository: name the registry"),
        (("image.tga=1",), "tga"),
        (("port=80",), "port"),
        (("podMonitor.interval=often",), "interval"),
        (("image.digest=sha256:12",), "digest"),
        ((MONITOR, "podMonitor.runs.matchLabels=null"), "matchLabels"),
        (("networkPolicy.enabled=true", "networkPolicy.from="), "from"),
        (("prometheusRule.disabled={GpuStalled}",), "disabled"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_wrong_value_is_refused(settings: tuple[str, ...], why: str) -> None:
    """With its name."""
    given = [word for setting in (IMAGE, *settings) for word in ("--set", setting)]
    done = helm("template", "x", CHART, *given)
    assert done.returncode
    assert why in done.stderr


def test_the_plain_file_is_what_the_chart_makes() -> None:
    """For those who do not use Helm; `make kubernetes` writes it anew."""
    head, _, rest = PLAIN.read_text().partition("---\n")
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"---\n{rest}" == template(MONITOR)
