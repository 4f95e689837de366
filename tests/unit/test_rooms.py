import re

from tests.rooms import ROOT, drawing, layers

DOCS = ROOT / "docs"


def test_the_picture_of_the_rooms_is_that_of_the_code() -> None:
    """docs/rooms.svg has the layers of the contract and the first line of every room."""
    assert (DOCS / "rooms.svg").read_text(encoding="utf-8") == drawing()


def test_every_room_says_what_goes_there() -> None:
    """docs/architecture.md has a line for each room."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = [room for layer in layers() for room in layer if not room.startswith("_")]
    assert [room for room in rooms if f"| `{room}" not in text] == []


def test_every_module_that_is_named_is_there() -> None:
    """The paths in docs/architecture.md lead to modules and folders."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/[\w/]*(?:\.\w+)?)`", text)
    roots = (ROOT, ROOT / "virnucpro_exporter")
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []
    assert "gpu/monitor.py" in named
