"""URLs that are refused, and what of a URL is shown."""

from __future__ import annotations

import pytest

from virnucpro_exporter.config import RunConfig, load_config
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.stores import urls
from virnucpro_exporter.stores.paths import StoredPath, path_of

SECRET = "hunter2"  # noqa: S105 - what must not be seen


@pytest.mark.parametrize(
    ("url", "line"),
    [
        (f"s3://key:{SECRET}@reads/x", "(given: 's3://...@reads/x')"),
        (f"https://me:{SECRET}@host/x.fa?{SECRET}", "(given: 'https://...@host/x.fa')"),
        (f"s3://reads/x?Signature={SECRET}", "s3:// URLs take no query string"),
        (f"ftp://me:{SECRET}@host/x.fa", "ftp:// is not supported: use s3://, gs://, https://"),
        ("s3://reads/a//b.fa", "has an empty, '.' or '..' component"),
        ("https://host/../b.fa", "has an empty, '.' or '..' component"),
        ("s3:///x", "has no bucket"),
        ("https:///x", "has no server"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, line: str) -> None:
    """One line says why, and holds nothing secret."""
    with pytest.raises(UsageError) as refused:
        load_config(None, {"inputs": (url,), "output": "out"}, {})
    assert line in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_query_is_kept_apart() -> None:
    """The configuration has the URL alone; the workers' environment has the query."""
    config = load_config(None, {"inputs": (f"HTTPS://host/x.fa?sig={SECRET}",), "output": "o"}, {})
    assert isinstance(config, RunConfig)
    assert config.inputs.paths == ("https://host/x.fa",)
    assert SECRET not in str(config.flat())
    assert SECRET in urls.environment(config.inputs.paths)[urls.QUERIES_VARIABLE]
    assert urls.with_query("https://host/x.fa") == f"https://host/x.fa?sig={SECRET}"
    assert urls.environment(["https://host/y.fa"]) == {}


@pytest.mark.parametrize("others", [["https://h/get?id=1&sig=4"], ["https://h/get"]])
def test_two_inputs_that_would_become_one_are_refused(others: list[str]) -> None:
    """They differ in nothing but the query string, which is not in their names."""
    first = f"https://h/get?id={SECRET}"
    again = {"inputs": (first, first.replace("https", "HTTPS"), "https://h/put?id=2")}
    assert load_config(None, {**again, "output": "o"}, {}).inputs.paths[0] == "https://h/get"
    with pytest.raises(UsageError, match="'https://h/get' is given with different") as refused:
        load_config(None, {"inputs": (first, *others), "output": "o"}, {})
    assert SECRET not in str(refused.value)


def test_errors_of_libraries_lose_queries() -> None:
    """What a library says of a request names no query, wherever the URL stands."""
    text = f"403, url='https://host/x.fa?X-Amz-Signature={SECRET}&a=b' (https://u:{SECRET}@h/)"
    assert SECRET not in urls.without_secrets(text)
    assert "https://host/x.fa' (" in urls.without_secrets(text)


def test_a_path_of_a_store() -> None:
    """It reads as its URL and has the parts of a path."""
    path = path_of("s3://bucket/some/a.fa.gz")
    assert isinstance(path, StoredPath)
    assert (str(path), path.name, str(path.parent)) == (
        "s3://bucket/some/a.fa.gz",
        "a.fa.gz",
        "s3://bucket/some",
    )
    assert path == path_of("s3://bucket/some/a.fa.gz")
    with pytest.raises(ValueError, match="can only be read"):
        path.open("w")
