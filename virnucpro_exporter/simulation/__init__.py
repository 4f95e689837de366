"""Virtual workers and GPUs that drive the real scheduler.

`workers` knows what every virtual GPU does and when, and never waits. Two things step it: `run`, as
fast as it can be computed, for benchmarks; and `pool`, at the pace of a clock, behind the interface
of the real worker processes, for the command `simulate`. `scenarios` says what goes wrong there;
`cluster` is a cluster of any size in which much goes wrong, for benchmarks and tests.
"""

from virnucpro_exporter.simulation.cluster import VirtualCluster, timeless
from virnucpro_exporter.simulation.files import skewed_files
from virnucpro_exporter.simulation.pool import VirtualPool
from virnucpro_exporter.simulation.scenarios import SCENARIOS, Simulation
from virnucpro_exporter.simulation.virtual_run import Outcome, VirtualRun, lower_bound
from virnucpro_exporter.simulation.workers import (
    Mishap,
    Outage,
    Reports,
    VirtualGpu,
    VirtualWorkers,
)

__all__ = [
    "SCENARIOS",
    "Mishap",
    "Outage",
    "Outcome",
    "Reports",
    "Simulation",
    "VirtualCluster",
    "VirtualGpu",
    "VirtualPool",
    "VirtualRun",
    "VirtualWorkers",
    "lower_bound",
    "skewed_files",
    "timeless",
]
