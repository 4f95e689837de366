"""The tables of `tests.contracts` as a contract of import-linter: `make lint` checks them, too."""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output

from tests.contracts import sources, violations


class TablesContract(Contract):
    """Kept when every module imports only what the tables allow."""

    type_name = "tables"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Read the modules themselves: the graph knows no line of the standard library."""
        del graph, verbose
        lines = [line for module, text in sources() for line in violations(module, text)]
        return ContractCheck(kept=not lines, metadata={"lines": lines})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each violation, a line for each."""
        for line in check.metadata["lines"]:
            output.print_error(line)
