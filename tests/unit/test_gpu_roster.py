"""Ids of GPUs stay with their uuids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.gpu.roster import assign
from virnucpro_exporter.gpu.sources import Found


def listed(*uuids: str) -> list[Found]:
    """What a source lists, in the order of the indices; an empty uuid cannot be asked."""
    return [Found(str(i), uuid, code=0 if uuid else 15) for i, uuid in enumerate(uuids)]


def uuids(known: dict[str, str], *now: str) -> dict[str, str]:
    return {gpu: found.uuid for gpu, found in assign(known, listed(*now)).items()}


def test_ids_are_the_first_indices() -> None:
    """At the start the id is NVML's index, also for a GPU that cannot be identified."""
    assert uuids({}, "a", "", "c") == {"0": "a", "1": "", "2": "c"}


def test_an_index_shift() -> None:
    """When GPU 0 falls off the bus the others keep their ids, whatever their indices are now."""
    known = {"0": "a", "1": "b", "2": "c"}
    assert uuids(known, "b", "c") == {"1": "b", "2": "c"}
    assert uuids(known, "c", "b", "a") == {"0": "a", "1": "b", "2": "c"}


def test_one_that_cannot_be_identified_may_be_the_missing_one() -> None:
    """It gets no id of its own while a known GPU is missing."""
    assert uuids({"0": "a", "1": "b"}, "a", "") == {"0": "a"}


def test_one_that_can_be_identified_at_last() -> None:
    """It takes the id that was kept for it, even if its index is another now."""
    assert uuids({"0": "a", "1": ""}, "a", "b") == {"0": "a", "1": "b"}
    assert uuids({"0": "", "1": "b"}, "b", "a") == {"0": "a", "1": "b"}


def test_a_slice_takes_no_id_of_a_whole_gpu() -> None:
    """A slice that is cut while another GPU cannot be identified has an id of its own."""
    now = [Found("0", "a"), Found("0:0", "m"), Found("1", "", code=15)]
    result = assign({"0": "a", "1": ""}, now)
    assert {gpu: found.uuid for gpu, found in result.items()} == {"0": "a", "0:0": "m", "1": ""}
    assert set(assign({"0": "a", "1": ""}, now[:2])) == {"0", "0:0"}


def test_a_new_gpu_at_a_known_index() -> None:
    """It gets a free id, and the missing one keeps its own."""
    assert uuids({"0": "a", "1": "b"}, "a", "x") == {"0": "a", "2": "x"}


names = st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=6)


@given(st.lists(names, max_size=6))
def test_any_history(history: list[list[str]]) -> None:
    """No id ever changes its uuid, and no uuid ever has two ids."""
    known: dict[str, str] = {}
    for now in history:
        shown = [uuid for i, uuid in enumerate(now) if not uuid or uuid not in now[:i]]
        before = dict(known)
        known.update(uuids(known, *shown))
        assert all(known[gpu] == uuid for gpu, uuid in before.items() if uuid)
        identified = [uuid for uuid in known.values() if uuid]
        assert len(identified) == len(set(identified))
        assert {uuid for uuid in shown if uuid} <= set(identified)
