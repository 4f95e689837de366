"""A program that stands in for `nvidia-smi`: it prints, as that would, what a state file says.

Run: nvidia-smi --query-gpu=FIELD,... --format=csv,noheader,nounits
     nvidia-smi --help-query-gpu

The state file lies beside the program. Its keys: `gpus`, one mapping of field to cell for each;
`unknown`, fields that this driver lacks; `broken`, fields that it lists and refuses; `exit` and
`text` for a run that fails; `seconds` for which it hangs first.
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
    "utilization.memory": "12",
    "enforced.power.limit": "700.00",
    "clocks.current.sm": "1980",
    "clocks_event_reasons.active": "0x0000000000000025",
    "clocks_throttle_reasons.active": "0x0000000000000025",
    "clocks.current.memory": "2619",
    "clocks.max.sm": "1980",
    "clocks.max.memory": "2619",
    "temperature.memory": "58",
    "fan.speed": "[N/A]",
    "pstate": "P0",
    "ecc.errors.corrected.volatile.total": "3",
    "ecc.errors.uncorrected.volatile.total": "0",
    "ecc.errors.corrected.aggregate.total": "7",
    "ecc.errors.uncorrected.aggregate.total": "1",
    "remapped_rows.correctable": "0",
    "remapped_rows.uncorrectable": "1",
    "remapped_rows.pending": "Yes",
    "remapped_rows.failure": "No",
    "retired_pages.single_bit_ecc.count": "[N/A]",
    "retired_pages.double_bit.count": "[N/A]",
    "retired_pages.pending": "[N/A]",
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
    known = [field for field in FIELDS if field not in state.get("unknown", ())]
    query, *rest = arguments
    if query == "--help-query-gpu":
        for field in known:
            print(f'"{field}"\nWhat it is.\n')  # noqa: T201
        return 0
    fields = query.removeprefix("--query-gpu=").split(",")
    for field in fields:
        if field not in known or field in state.get("broken", ()):
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
