"""Matches the known GPUs with those that a source lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from virnucpro_exporter.gpu.sources import Found


def assign(known: Mapping[str, str], listed: Sequence[Found]) -> dict[str, Found]:
    """Give every listed GPU its id.

    The uuid decides, because indices move when a GPU is lost. An id once given stays with its uuid.

    Args:
        known: The uuid of each id; empty where it could not be queried so far.
        listed: What a source lists now.

    Returns:
        The listed GPU of each id, for the ids that have one. A GPU that cannot be identified gets
        a new id only if none is missing from the list: it may well be the missing one.
    """
    ids = {uuid: gpu for gpu, uuid in known.items() if uuid}
    result = {ids[item.uuid]: item for item in listed if item.uuid in ids}
    is_one_gone = len(result) < len(ids)
    rest = [item for item in listed if item.uuid not in ids]
    places = {item.gpu for item in rest}
    nameless = [gpu for gpu, uuid in known.items() if not uuid]
    moved = [gpu for gpu in nameless if gpu not in places]  # there is another one in their place
    taken = dict(known)
    for item in rest:
        if item.gpu in nameless:
            gpu = item.gpu
        elif item.uuid and moved and ":" not in item.gpu:
            gpu = moved.pop(0)
        elif item.uuid or not is_one_gone:
            gpu = _free(item.gpu, taken)
        else:
            continue
        taken[gpu] = item.uuid
        result[gpu] = item
    return result


def _free(wanted: str, taken: Mapping[str, str]) -> str:
    number = len(taken)
    while wanted in taken:
        wanted, number = str(number), number + 1
    return wanted
