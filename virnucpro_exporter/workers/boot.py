"""What the interpreter of a worker runs first: finds modules where they are safe to find.

The files in the folder that a user works in may be called like modules of the standard library
(`types.py`, `queue.py`). So that folder is searched last, for the user's own processors. The
package is the program's own, wherever that was found.
"""

import os
import sys

_PR_SET_PDEATHSIG = 1


def _order_path() -> None:
    try:
        here = os.getcwd()  # noqa: PTH109 - pathlib is not safe to import yet
    except FileNotFoundError:
        here = ""
    unwanted = {"", here, os.path.dirname(os.path.abspath(__file__))}  # noqa: PTH100, PTH120 - likewise
    sys.path[:] = [entry for entry in sys.path if entry not in unwanted]


def _go_on_when_the_program_dies() -> None:
    """Have the kernel continue this process, if it is stopped, when its parent dies; Linux only.

    The program stops a worker before it kills it. If the program is killed between the two, and no
    sentinel lives, the worker has to see for itself that its channel has ended.
    """
    import ctypes  # noqa: PLC0415 - only now it is the standard library's
    import signal  # noqa: PLC0415 - likewise

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)


def _load_package() -> None:
    from importlib import util  # noqa: PLC0415 - only now it is the standard library's
    from pathlib import Path  # noqa: PLC0415 - likewise

    folder = Path(__file__).resolve().parents[1]
    spec = util.spec_from_file_location(
        folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package")
    package = sys.modules[folder.name] = util.module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":  # not in processes that a processor spawns
    _order_path()
    _go_on_when_the_program_dies()
    _load_package()
    from virnucpro_exporter.workers.main import main

    main()
