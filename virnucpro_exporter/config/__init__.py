"""The options of the program: declared once in `sections`.

The command line, the YAML file and docs/configuration.md are made from that table.
"""

from virnucpro_exporter.config.options import declared
from virnucpro_exporter.config.sections import (
    DEFAULT_LOG,
    Cluster,
    Devices,
    Inputs,
    Metrics,
    Processor,
    Scheduling,
    Serve,
    Views,
)
from virnucpro_exporter.config.settings import (
    RunConfig,
    SimulateConfig,
    load_config,
    run_config,
    serve_config,
    simulate_config,
)

__all__ = [
    "DEFAULT_LOG",
    "Cluster",
    "Devices",
    "Inputs",
    "Metrics",
    "Processor",
    "RunConfig",
    "Scheduling",
    "Serve",
    "SimulateConfig",
    "Views",
    "declared",
    "load_config",
    "run_config",
    "serve_config",
    "simulate_config",
]
