"""How events, commands and facts are made: immutable values that cost little.

A frozen dataclass sets each field through `object.__setattr__`, which takes four times as long as a
plain one does, and the scheduler makes several messages for every file. So that nothing changes a
message is left to type checkers, which refuse it as for any frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # `typing` has it from Python 3.11 on

    def dataclass_transform(**_):
        """Only type checkers need to know."""
        return lambda decorator: decorator


T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def message(kind: type[T]) -> type[T]:
    """Make a dataclass of messages."""
    return dataclass(slots=True, unsafe_hash=True)(kind)
