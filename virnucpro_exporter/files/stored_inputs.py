"""Inputs that lie in stores: which objects a URL means."""

from __future__ import annotations

from collections.abc import Sequence

from virnucpro_exporter.errors import InputError, StoreError
from virnucpro_exporter.files.looking import look_at
from virnucpro_exporter.files.outputs import HIDDEN
from virnucpro_exporter.sequences import is_sequence_name
from virnucpro_exporter.stores.access import Stored, find
from virnucpro_exporter.stores.urls import BUCKETS, is_url, refusal, scheme_of

RESULTS = "results of another run; to use them, give the folder itself"
UNUSABLE = "an empty, '.' or '..' component in the name"


def find_stored(arguments: Sequence[str]) -> dict[str, list[Stored]]:
    """Find out from the stores what each URL among the arguments is.

    Raises:
        InputError: There is nothing at one, or a request to its store fails.
    """
    urls = [argument for argument in dict.fromkeys(arguments) if is_url(argument)]
    return dict(zip(urls, look_at(urls, _find), strict=True))


def _find(url: str) -> list[Stored]:
    try:
        return find(url)
    except FileNotFoundError:
        raise InputError(f"{url!r} matches no object") from None
    except StoreError as error:
        raise InputError(error.detail) from None


def chosen(
    url: str, found: Sequence[Stored], excluded: str | None
) -> tuple[list[Stored], dict[str, list[str]]]:
    """The objects that are inputs, as the files of a folder would be.

    Args:
        url: What the user gave.
        found: The objects that it means.
        excluded: What the URLs of results of this run begin with, if they go to a store.

    Returns:
        The inputs, and what is left out, by reason.
    """
    if len(found) == 1 and found[0].url == url:
        return list(found), {}
    top = url if url.endswith("/") else f"{url}/"
    hidden = f"/{HIDDEN}/"
    others = {one.url.partition(hidden)[0] + "/" for one in found if hidden in one.url}
    others.discard(top)
    files: list[Stored] = []
    left_out: dict[str, list[str]] = {}
    for one in found:
        name = one.url.removeprefix(top) if one.url.startswith(top) else one.url.rpartition("/")[2]
        if excluded is not None and one.url.startswith(excluded):
            continue
        if any(part.startswith(".") for part in name.split("/")) or not is_sequence_name(name):
            continue
        if any(one.url.startswith(other) for other in others):
            left_out.setdefault(RESULTS, []).append(one.url)
        elif scheme_of(one.url) in BUCKETS and refusal(one.url) is not None:
            left_out.setdefault(UNUSABLE, []).append(one.url)
        else:
            files.append(one)
    return files, left_out
