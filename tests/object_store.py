"""A real S3-compatible server, and a web server of files, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec

SECRET = "thisSecretMustNotBeSeenAnywhere"  # noqa: S105 - the server takes any
BUCKET = "reads"
_HOST = "127.0.0.4"  # where nothing else listens, so that its port stays free while it is away

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address=sys.argv[1], port=int(sys.argv[2]), verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class ObjectStore:
    """The server, with one bucket.

    Attributes:
        environment: What clients need in theirs.
    """

    def __init__(self) -> None:
        self._process = self._start(0)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://{_HOST}:{self.port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.files = fsspec.filesystem(
            "s3",
            key="testing",
            secret=SECRET,
            client_kwargs={"endpoint_url": self.url},
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        self.files.mkdir(BUCKET)

    @staticmethod
    def _start(port: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _SERVER, _HOST, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def put(self, key: str, content: bytes) -> str:
        """Make an object; its URL."""
        self.files.pipe_file(f"{BUCKET}/{key}", content)
        return f"s3://{BUCKET}/{key}"

    def objects(self, prefix: str) -> dict[str, bytes]:
        """The content of all objects below a prefix, by the rest of their names."""
        top = f"{BUCKET}/{prefix}/"
        found = {}
        for name in self.files.find(top):
            with suppress(FileNotFoundError):  # a run may have removed it since
                found[name.removeprefix(top)] = self.files.cat_file(name)
        return found

    def stop(self) -> None:
        """End the server; what it holds is lost."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def start_again(self) -> None:
        """Start an empty server at the same address, with the bucket."""
        self._process = self._start(self.port)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.files.mkdir(BUCKET)

    def close(self) -> None:
        """End the server."""
        self.stop()


class _Files(SimpleHTTPRequestHandler):
    """Serves a folder, in ranges if it is told to, and only to who gives the query."""

    has_ranges = True
    query = ""

    def log_message(self, *_: Any) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        """Send a file or a range of it."""
        path, _, query = self.path.partition("?")
        if query != self.query:
            self.send_error(403, f"not signed: {self.path}")
            return
        file = Path(self.translate_path(path))
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        asked = self.headers.get("Range", "").removeprefix("bytes=") if self.has_ranges else ""
        first, _, last = asked.partition("-")
        part = content[int(first) : int(last or len(content)) + 1] if asked else content
        self.send_response(206 if asked else 200)
        if asked:
            end = int(first) + len(part) - 1
            self.send_header("Content-Range", f"bytes {first}-{end}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hash(content)}"')
        self.end_headers()
        self.wfile.write(part)


@contextmanager
def web_server(folder: Path, *, has_ranges: bool = True, query: str = "") -> Iterator[str]:
    """Serve a folder over HTTP; gives the beginning of its URLs."""
    handler = type("Files", (_Files,), {"has_ranges": has_ranges, "query": query})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def secrets_in(folder: Path, *texts: str, words: tuple[str, ...] = (SECRET,)) -> list[str]:
    """Where any of these words stands: in a file below a folder, or in a text."""
    found = [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in words)
    ]
    return found + [text for text in texts if any(word in text for word in words)]


def with_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of this process, without credentials of its own, and more."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    return {**own, **extra}
