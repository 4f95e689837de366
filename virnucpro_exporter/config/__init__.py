"""The options of the program: declared once in `sections`.

The command line, the YAML file and docs/configuration.md are made from that table.
"""

from virnucpro_exporter.config.options import (
    COMMAND_VARIABLES,
    CONFIG_VARIABLE,
    OUTPUT_VARIABLE,
    declared,
)
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
    check_file,
    in_force,
    load_config,
    run_config,
    serve_config,
    simulate_config,
)
from virnucpro_exporter.config.shown import as_json, as_yaml

__all__ = [
    "COMMAND_VARIABLES",
    "CONFIG_VARIABLE",
    "DEFAULT_LOG",
    "OUTPUT_VARIABLE",
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
    "as_json",
    "as_yaml",
    "check_file",
    "declared",
    "in_force",
    "load_config",
    "run_config",
    "serve_config",
    "simulate_config",
]
