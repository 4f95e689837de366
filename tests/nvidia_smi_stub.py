"""A program that stands in for `nvidia-smi`: it prints, as that would, what a state file says.

Run: nvidia-smi --query-gpu=FIELD,... --format=csv,noheader,nounits

The state file lies beside the program. Its keys: `gpus`, one mapping of field to cell for each;
`exit` and `text` for a run that fails; `seconds` for which it hangs first.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

FIELDS = {
    "index": "0",
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "utilization.gpu": "37",
    "memory.used": "40054",
    "memory.total": "81559",
    "temperature.gpu": "61",
    "power.draw": "312.35",
    "driver_version": "550.54.15",
    "pci.bus_id": "00000000:01:00.0",
    "name": "NVIDIA H100 80GB HBM3",
}


class FakeNvidiaSmi:
    """The program in a folder, and its state.

    Args:
        folder: Where to put it; with this folder on PATH it is found as `nvidia-smi`.
        count: How many healthy GPUs it lists.
    """

    def __init__(self, folder: Path, count: int = 1) -> None:
        self.program = folder / "nvidia-smi"
        self._state = folder / "nvidia-smi.json"
        self._calls = folder / "nvidia-smi.calls"
        self.gpus: list[dict[str, str]] = []
        for index in range(count):
            uuid = f"GPU-{index:08}{FIELDS['uuid'][12:]}"
            bus = f"00000000:{index + 1:02X}:00.0"
            self.gpus.append({**FIELDS, "index": str(index), "uuid": uuid, "pci.bus_id": bus})
        self.program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {folder} "$@"\n')
        self.program.chmod(0o755)
        self.say()

    def say(self, **state: Any) -> None:
        """From now on: list the GPUs as they are now, or do what the keys say."""
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps({"gpus": self.gpus, **state}))
        new.replace(self._state)

    @property
    def calls(self) -> int:
        """How often it was run."""
        return len(self._calls.read_text()) if self._calls.exists() else 0


def main(folder: Path, *arguments: str) -> int:
    """What the program does; the status it ends with."""
    state = json.loads((folder / "nvidia-smi.json").read_text())
    with (folder / "nvidia-smi.calls").open("a") as calls:
        calls.write(".")
    time.sleep(state.get("seconds", 0))
    if state.get("exit"):
        print(state["text"])  # noqa: T201 - all text goes to standard output
        return int(state["exit"])
    query, *rest = arguments
    fields = query.removeprefix("--query-gpu=").split(",")
    for field in fields:
        if field not in FIELDS:
            print(f'Field "{field}" is not a valid field to query.')  # noqa: T201
            return 2
    if rest != ["--format=csv,noheader,nounits"]:
        print("this stand-in knows one format only")  # noqa: T201
        return 2
    for gpu in state["gpus"]:
        print(", ".join(gpu[field] for field in fields))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
