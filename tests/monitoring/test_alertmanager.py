"""Who is told of what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.monitoring.programs import tool
from tests.monitoring.rules import ALERTMANAGER, FOLDER, load

EXAMPLES = re.findall(
    r"```yaml\n(receivers:\n.*?)```",
    (FOLDER.parent / "docs" / "alerting.md").read_text(),
    re.DOTALL,
)


def test_amtool_accepts_the_configuration() -> None:
    """As committed."""
    checked = tool("amtool", "check-config", ALERTMANAGER)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=["slack", "mail", "webhook"])
def test_the_receivers_of_the_documents_fit_in(example: str, tmp_path: Path) -> None:
    """Each example takes the place of the receivers, and keeps its secret in a file."""
    changed = tmp_path / "alertmanager.yml"
    changed.write_text(yaml.safe_dump({**load(ALERTMANAGER), **yaml.safe_load(example)}))
    checked = tool("amtool", "check-config", changed)
    assert checked.returncode == 0, checked.stdout
    assert "_file: /etc/alertmanager/secrets/" in example


@pytest.mark.parametrize("severity", ["critical", "warning", "info"])
def test_each_severity_has_its_receiver(severity: str) -> None:
    """As amtool finds it."""
    route = ("config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}")
    assert severity in tool("amtool", *route).stdout.splitlines()
