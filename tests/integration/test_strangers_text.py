"""Texts of files, commands and settings, wherever the program shows them."""

from __future__ import annotations

import subprocess
import unicodedata
from pathlib import Path

import pytest

from tests.run_program import DEADLINE, PROGRAM, ROOT

ACTING = "\x1b[2J\u202e\n2026-01-01 forged\r\x9b1m"
QUIET = ["--gpus=cpu:1", "--no-web", "--linger=0", "--no-dashboard", "--max-attempts=1"]


def shown(*words: str | Path, folder: Path) -> str:
    """All that the program prints, which has to be harmless."""
    done = subprocess.run(
        [*PROGRAM, *words],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    text = (done.stdout + done.stderr).decode()  # strictly
    assert harmless(text), ascii(text)
    assert "Traceback" not in text
    return text


def harmless(text: str) -> bool:
    """Whether no character moves the cursor or turns the text, and no line is forged."""
    acting = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    forged = any(line.startswith("2026-01-01 forged") for line in text.splitlines())
    return acting <= {"\n"} and not forged


def test_names_and_messages_act_on_no_terminal(tmp_path: Path) -> None:
    """In the log, the summary, `status`, `report` and its page; foreign letters are shown."""
    name = f"样{ACTING}.fa"
    (tmp_path / name).write_text(">a\nACGT\n")
    noise = f"printf '%s' '{ACTING}' >&2; exit 3"
    run = shown("run", name, *QUIET, "--output=R", "--", "sh", "-c", noise, folder=tmp_path)
    assert "样" in run
    assert r"\x1b[2J" in run
    assert "样" in shown("status", "R", folder=tmp_path)
    shown("status", "R", "--json", folder=tmp_path)
    assert "样" in shown("report", "R", "--html", "r.html", folder=tmp_path)
    page = (tmp_path / "r.html").read_text()
    assert "样" in page
    assert not any(char in page for char in "\x1b\u202e\x9b")


@pytest.mark.parametrize(
    "words",
    [
        ["run", f"no{ACTING}.fa", "--output=R"],
        ["run", "x.fa", "--output=R", f"--no{ACTING}"],
        ["run", "x.fa", *QUIET, "--output=R", f"--processor=no{ACTING}:x"],
        ["run", "x.fa", "--output=R", f"--web-listen-address={ACTING}"],
        ["run", "--config=bad.yaml", "--output=R"],
        ["serve", "--web-config-file=bad.yaml"],
        ["status", f"no{ACTING}"],
        ["report", f"no{ACTING}"],
        ["assets", f"x.fa/{ACTING}"],
    ],
)
def test_errors_act_on_no_terminal(tmp_path: Path, words: list[str]) -> None:
    """Whatever was typed or stands in a file is quoted in one harmless line."""
    (tmp_path / "x.fa").write_text(">a\nACGT\n")
    (tmp_path / "bad.yaml").write_text('"no \\e[2J\\u202e\\n2026-01-01 forged\\r\\x9b": 1\n')
    lines = shown(*words, folder=tmp_path).splitlines()
    assert sum(line.startswith("virnucpro-exporter: ") for line in lines) == 1
