"""Builds the stand-in NVML once, scripts its state, and runs code on it in a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

_HERE = Path(__file__).parent
_PRELUDE = """
import ctypes, json, os, sys, time
sys.path.insert(0, {here!r})
ctypes.CDLL({library!r})
from tests.nvml_stub.stub import NvmlStub
stub = NvmlStub({library!r}, {state!r})
"""


class NvmlStub:
    """The state file of one stand-in, and a way to run Python on it.

    nvitop keeps the library for as long as a process lives, and some of what a test does to it, so
    most tests get a process.

    Args:
        library: The built stand-in.
        state: The state file.
    """

    def __init__(self, library: str | Path, state: str | Path) -> None:
        self.library = str(library)
        self.path = Path(state)
        self.state: dict[str, Any] = {}
        os.environ["NVML_STUB_STATE"] = str(self.path)
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            self.state = dict(line.split(" ", 1) for line in lines)

    def set(self, **values: Any) -> None:
        """Change keys of the state (`g0_util=5` is `g0.util`); None removes one."""
        for key, value in values.items():
            self.state[key.replace("_", ".", 1) if key[0] == "g" else key] = value
        self.state = {key: value for key, value in self.state.items() if value is not None}
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{key} {value}\n" for key, value in self.state.items()))
        new.replace(self.path)

    def fail(self, gpu: int, function: str, code: int | None) -> None:
        """Make one NVML function answer a code for one GPU; None heals it."""
        self.state[f"g{gpu}.err.{function}"] = code
        self.set()

    def run(self, code: str) -> Any:
        """Run `code` on the stand-in in a new process; what it prints last is read as JSON."""
        prelude = _PRELUDE.format(here=str(_HERE), library=self.library, state=str(self.path))
        done = subprocess.run(
            [sys.executable, "-c", prelude + code],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


def build(folder: Path, *options: str) -> Path:
    """Compile the stand-in into a folder, with options for the compiler; the library's path."""
    library = folder / "libnvidia-ml.so.1"
    command = ["cc", "-O2", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, *options, "-o", str(library), str(_HERE / "libnvml.c")], check=True)
    return library


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, built once in a session."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in with the functions of old drivers."""
    return build(tmp_path_factory.mktemp("old_nvml"), "-DOLD_DRIVER")


@pytest.fixture
def nvml_here(nvml_stub: NvmlStub, monkeypatch: pytest.MonkeyPatch) -> NvmlStub:
    """The stand-in in the test's own process, for tests that leave no thread inside it."""
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(nvml_stub.library))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return nvml_stub


@pytest.fixture
def nvml_stub(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStub:
    """A stand-in with one healthy GPU."""
    monkeypatch.setenv("NVML_STUB_STATE", str(tmp_path / "state"))
    stub = NvmlStub(nvml_library, tmp_path / "state")
    stub.set(count=1)
    return stub
