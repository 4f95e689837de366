"""Compressed text that is read on where the last reader in this process has stopped.

Plain gzip and zstd can be entered at their beginning alone. A worker that does one part of a file
after the other would decompress all that is before each of them anew.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import BinaryIO

from virnucpro_exporter.sequences.opening import open_again
from virnucpro_exporter.sequences.texts import Text

KEPT_BYTES = 1 << 22  # of the text that was read last: the next part begins somewhere in it

_stopped: dict[Hashable, _Stopped] = {}  # one at most


class _Stopped:
    """The text of a file from somewhere on, of which the beginning was read already.

    Args:
        file: Where it is read from; nothing else reads it.
        texts: All of it.
    """

    def __init__(self, file: BinaryIO, texts: Iterable[Text]) -> None:
        self.close = file.close
        self._texts = iter(texts)
        self._recent: deque[Text] = deque()
        self._held = 0

    def reaches(self, place: int, before: int) -> bool:
        """Whether so many bytes before a place can still be had."""
        begins = not self._recent or not self._recent[0].place
        return begins or self._entry(place, before) is not None

    def _entry(self, place: int, before: int) -> int | None:
        """The index of the last text from which on there are so many bytes before a place."""
        held = 0
        for index in reversed(range(len(self._recent))):
            text = self._recent[index]
            held += max(0, min(len(text.text), place - text.place))
            if held >= before and text.place <= place:
                return index
        return None

    def read(self, place: int, before: int) -> Iterator[Text]:
        """The text from so many bytes before a place on, if there are as many."""
        yield from itertools.islice(tuple(self._recent), self._entry(place, before) or 0, None)
        for text in self._texts:
            self._recent.append(text)
            self._held += len(text.text)
            while self._held - len(self._recent[0].text) >= KEPT_BYTES:
                self._held -= len(self._recent.popleft().text)
            yield text


def read_on(
    file: BinaryIO, place: int, before: int, texts: Callable[[BinaryIO], Iterable[Text]]
) -> Iterator[Text]:
    """Yield the text of a file from somewhere before a place on.

    Args:
        file: A regular file that can be entered at its beginning alone.
        place: The place.
        before: So many bytes before it are wanted at least, if there are as many.
        texts: Makes the whole text of the file, open at its beginning.
    """
    own, key = open_again(file)  # it stays open
    stopped = _stopped.pop(key, None)
    if stopped is not None and stopped.reaches(place, before):
        own.close()
    else:
        if stopped is not None:
            stopped.close()
        stopped = _Stopped(own, texts(own))
    try:
        yield from stopped.read(place, before)
    except GeneratorExit:
        while _stopped:
            _stopped.popitem()[1].close()
        _stopped[key] = stopped
        raise
    except BaseException:
        stopped.close()
        raise
    stopped.close()  # it has ended: there is nothing to read on
