"""Random text of FASTA and FASTQ, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

names = st.from_regex(rb"[!-~]{1,8}", fullmatch=True)
bases = st.lists(st.sampled_from(b"ACGTNacgtn"), max_size=40).map(bytes)
qualities = st.sampled_from([b"@", b"+", b">", b"I", b"@A", b"+I@"])


@st.composite
def sources(draw: st.DrawFn) -> bytes:
    """The text of FASTA or FASTQ, with what could be taken for a header wherever that is valid."""
    newline = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    width = draw(st.sampled_from([1, 7, 100]))
    is_fastq = draw(st.booleans())
    out = [draw(st.sampled_from([b"", b"\n", b"\r\n\n"]))]
    for name, sequence in draw(st.lists(st.tuples(names, bases), min_size=1, max_size=12)):
        quality = (draw(qualities) * len(sequence))[: len(sequence)]
        lines = [(b"@" if is_fastq else b">") + name + b" x >y @z", *wrapped(sequence, width)]
        lines += [b"+", *wrapped(quality, width)] if is_fastq else []
        out += [line + newline for line in lines]
    text = b"".join(out)
    return text.rstrip() if draw(st.booleans()) else text


def wrapped(text: bytes, width: int) -> list[bytes]:
    """The text in lines."""
    return [text[i : i + width] for i in range(0, len(text), width)] or [b""]
