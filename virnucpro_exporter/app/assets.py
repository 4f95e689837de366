"""What comes with the program for Prometheus, Grafana, Docker and Kubernetes, as files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import virnucpro_exporter
from virnucpro_exporter.errors import AssetsError, UsageError

_PACKAGE = Path(virnucpro_exporter.__file__).parent

# In a wheel they lie within the package, in a checkout beside it; pyproject.toml names them, too.
_PACKAGED = _PACKAGE / "assets"

NAMES = (
    ".dockerignore",
    ".env.example",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "deploy",
    "docker-compose.yml",
    "docs/alerting.md",
    "docs/deploy.md",
    "docs/runbook.md",
    "grafana/README.md",
    "grafana/dashboards",
    "grafana/provisioning",
    "prometheus/alertmanager.yml",
    "prometheus/prometheus.yml",
    "prometheus/rules",
    "prometheus/targets",
    "pyproject.toml",
)


_RULES = Path("prometheus/rules/alerts.yml")
_URL = re.compile(r"https?://[^\s\"'{}<>\\]+")
_DASHBOARD = re.compile(r"^( *)dashboard_uid: (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Links:
    """Where the links of alerts lead.

    Attributes:
        runbook: The address of the page with the runbook; None: the path in this repository.
        grafana: The address of Grafana; None: alerts name their dashboard only.

    Raises:
        UsageError: One is no address.
    """

    runbook: str | None = None
    grafana: str | None = None

    def __post_init__(self) -> None:
        for option, url in (("--runbook-base", self.runbook), ("--grafana-url", self.grafana)):
            if url is not None and not _URL.fullmatch(url):
                raise UsageError(
                    f"{option} {url!r}: must be a full URL, such as https://wiki.example.org/runbook"
                )

    def put_into(self, rules: str) -> str:
        """The rules with these links."""
        if self.runbook is not None:
            rules = rules.replace("runbook_url: docs/runbook.md", f"runbook_url: {self.runbook}")
        if self.grafana is not None:
            base = self.grafana.rstrip("/")
            shown = "?var-instance={{ $labels.instance }}"
            gpu = "{{ with $labels.gpu }}&var-gpu={{ . }}{{ end }}"
            rules = _DASHBOARD.sub(
                lambda found: (
                    f'{found[0]}\n{found[1]}dashboard_url: "{base}/d/{found[2]}{shown}{gpu}"'
                ),
                rules,
            )
        return rules


def write(folder: Path, *, force: bool = False, links: Links = Links()) -> tuple[int, int]:
    """Write all files into a folder, laid out as in the repository.

    The code of the program itself is among them, because its container image is built from it.

    Args:
        folder: Made if there is none.
        force: Replace files that are there and have another content.
        links: Where those of alerts lead.

    Returns:
        How many files were written, and how many were there already, the same.

    Raises:
        AssetsError: A file is there with another content, or cannot be read or written.
    """
    contents: dict[Path, bytes] = {}
    try:
        for name, source in _sources():
            contents[folder / name] = source.read_bytes()
        rules = folder / _RULES
        contents[rules] = links.put_into(contents[rules].decode()).encode()
        same = {path for path, data in contents.items() if _is(path, data)}
        if not force:
            _refuse_changed([path for path in contents if path not in same and path.exists()])
        for path, data in contents.items():
            if path not in same:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    except OSError as error:
        raise AssetsError(f"{str(error.filename)!r}: {error.strerror}") from error
    return len(contents) - len(same), len(same)


def _is(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _refuse_changed(changed: list[Path]) -> None:
    if changed:
        others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise AssetsError(
            f"{str(changed[0])!r}{others} would be overwritten; use another folder, or --force"
        )


def _sources() -> Iterator[tuple[Path, Path]]:
    """Where each file goes, and where it comes from."""
    root = _PACKAGED if _PACKAGED.is_dir() else _PACKAGE.parent
    for name in NAMES:
        for path in _files(root / name):
            yield path.relative_to(root), path
    for path in _files(_PACKAGE):
        if _PACKAGED not in path.parents and path.suffix != ".pyc":
            yield path.relative_to(_PACKAGE.parent), path


def _files(path: Path) -> list[Path]:
    """A file, or those of a folder; folders that are links, as in the Helm chart, are followed."""
    if path.is_dir():
        tree = os.walk(path, followlinks=True)
        return sorted(Path(folder) / name for folder, _, names in tree for name in names)
    return [path]
