"""The user's own Python class or function, loaded once per worker.

A class may look like this; a function is `process` alone, without `self`.

    class Embed:
        def setup(self, gpu):
            self.model = load_model().to("cuda")  # CUDA_VISIBLE_DEVICES shows one GPU only

        def process(self, file, output, progress):
            for number, record in enumerate(read(file), 1):
                self.model(record)
                progress(number)
            return number
"""

from __future__ import annotations

import importlib
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.processors.staging import local_file
from virnucpro_exporter.sequences import OpenPart
from virnucpro_exporter.stores.paths import StoredPath


def load(target: str, main: str | None = None) -> Any:
    """Find a class or function.

    Args:
        target: `package.module:name`.
        main: The script that module `__main__` stands for, if it is meant.

    Raises:
        ProcessorError: There is no such module or name.
    """
    module_name, separator, name = target.partition(":")
    if not (module_name and separator and name):
        raise ProcessorError(f"{target!r} must have the form package.module:name")
    if main is not None:
        _load_script(main)
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ProcessorError(f"{target!r}: {error}") from error
    return found


def _load_script(path: str) -> None:
    """Load the user's script as multiprocessing would: its `__main__` guard does not fire."""
    # multiprocessing registers the program itself under this name, so the path decides.
    if getattr(sys.modules.get("__mp_main__"), "__file__", None) != path:
        module = types.ModuleType("__mp_main__")
        # Known by name before it runs: dataclasses and pickle look their module up.
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
        module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))


def _joins(inner: Any, target: str) -> str | None:
    """How the results of parts are joined, as the user's code defines.

    Raises:
        ProcessorError: The code names an unknown way.
    """
    found = getattr(inner, "joins", None)
    if found not in (None, "concatenate", "header", "number"):
        raise ProcessorError(
            f"{target!r}: its attribute 'joins' is {found!r}; use 'concatenate', 'header' or "
            "'number', or a method join(parts, output)"
        )
    return None if found is None else str(found)


class PythonProcessor:
    """Makes a processor of a class or a plain function.

    One with `joins` or `join` does parts of files: its `process` is given a part in place of a path
    and reads it with `virnucpro_exporter.sequences.read_sequences`.

    Args:
        target: `package.module:name`.
        main: The script that module `__main__` stands for, if it is meant.
        output_suffix: Names the output where the user's code does not: file name plus this.

    Raises:
        ProcessorError: It cannot be loaded, or is neither a class with `process` nor a function.
    """

    def __init__(self, target: str, main: str | None = None, output_suffix: str = ".out") -> None:
        found = load(target, main)
        self._inner = found() if isinstance(found, type) else found
        self._process: Callable[..., Any] = getattr(self._inner, "process", self._inner)
        self._suffix = output_suffix
        self.joins = _joins(self._inner, target)
        if hasattr(self._inner, "join"):
            self.join = self._inner.join
        if not callable(self._process):
            raise ProcessorError(f"{target!r} is not a function and has no method 'process'")

    def output_names(self, file: Path) -> Sequence[str]:
        """The names that the user's code returns, else the file's name with the suffix."""
        if hasattr(self._inner, "output_names"):
            names: Sequence[str] = self._inner.output_names(file)
            return names
        return (file.name + self._suffix,)

    def setup(self, gpu: str) -> None:
        """Let the user's code get ready, if it has to."""
        if hasattr(self._inner, "setup"):
            self._inner.setup(gpu)

    def close(self) -> None:
        """Let the user's code give back what it took."""
        if hasattr(self._inner, "close"):
            self._inner.close()

    def process(self, file: Path | OpenPart, output: Path, progress: ProgressCallback) -> Processed:
        """Process a file or part; the user's code returns None, a number or `Processed`."""
        if isinstance(file, StoredPath):
            with local_file(file, output.parent) as local:
                result = self._process(local, output, progress)
        else:  # code that takes a part reads it with our reader
            result = self._process(file, output, progress)
        return result if isinstance(result, Processed) else Processed(result)
