"""A hub on this machine: the part of the Hugging Face hub's HTTP interface that `huggingface_hub` 2 and
`datasets` 5 use to read sets.

Nothing of the libraries is replaced: a subprocess is given `environment(...)`, and asks this server.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from submission.offline import SWITCHES

COMMIT = hashlib.sha1(b"the only commit", usedforsecurity=False).hexdigest()
Fault = tuple[int, str, str]
"""Status, `X-Error-Code` and message of every answer about a set."""
GATED_UNKNOWN: Fault = (401, "GatedRepo", "Access to this dataset is restricted. You must be authenticated.")
GATED_REFUSED: Fault = (403, "GatedRepo", "Access to this dataset is restricted; ask for access.")
DOWN: Fault = (503, "", "Service Unavailable")


@dataclass
class Repo:
    """A set's files by path; `fault` is what the hub says instead of giving them.

    Args:
        files: content by path.
        fault: of all that is asked about the set.
        cut: path of a file of which the connection breaks half-way.
    """

    files: dict[str, bytes]
    fault: Fault | None = None
    cut: str = ""


@dataclass
class Hub:
    """Sets by name; `asked` lists the method and path of every request."""

    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def environment(self, home: Path) -> dict[str, str]:
        """Variables with which a subprocess uses this hub and keeps its cache in `home`."""
        # Other tests of this process may have switched it offline.
        kept = {
            key: value
            for key, value in os.environ.items()
            if key not in SWITCHES and not key.startswith(("HF_", "HUGGING"))
        }
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            # A proxy knows nothing of this machine's own addresses.
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        return kept | own


@contextlib.contextmanager
def hub_server(repos: Mapping[str, Repo]) -> Iterator[Hub]:
    """Serve these sets on a free port of 127.0.0.1."""
    hub = Hub(dict(repos))
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: _Handler(hub, *given))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *given: object) -> None:
        self.hub = hub
        super().__init__(*given)  # type: ignore[arg-type]  # as socketserver gives them

    def log_message(self, *_: object) -> None:
        """Quiet: `Hub.asked` keeps what was asked."""

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def _route(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.split("/")
        if parts[:2] == ["api", "datasets"] and len(parts) >= 4:
            self._api("/".join(parts[2:4]), parts[4:], body)
        elif parts[0] == "datasets" and len(parts) > 5 and parts[3] == "resolve":
            self._file("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        else:
            self._error((404, "RepoNotFound", "Repository not found"))

    def _repo(self, name: str, revision: str = "main") -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            # What the real one says to whoever is not logged in: it does not tell which sets are private.
            self._error((401, "RepoNotFound", "Invalid username or password."))
        elif repo.fault is not None:
            self._error(repo.fault)
        elif revision not in ("main", COMMIT):
            self._error((404, "RevisionNotFound", f"Invalid rev id: {revision}"))
        else:
            return repo
        return None

    def _api(self, name: str, rest: list[str], body: bytes) -> None:
        repo = self._repo(name, rest[1] if len(rest) > 1 else "main")
        if repo is None:
            return
        files = repo.files
        if not rest or rest[0] == "revision":
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "sha": COMMIT, "private": False, "gated": False, "siblings": siblings})
        elif rest[0] == "tree":
            under = "/".join(rest[2:])
            found = _entries(files, under)
            if under and not found:
                self._error((404, "EntryNotFound", f"{under} does not exist"))
            else:
                self._json(found)
        elif rest[0] == "paths-info":
            asked = _paths(self.headers, body)
            everything = {entry["path"]: entry for entry in _entries(files, "")}
            self._json([everything[path] for path in asked if path in everything])
        else:
            self._error((404, "", "no such interface"))

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name, revision)
        if repo is None:
            return
        if path not in repo.files:
            self._error((404, "EntryNotFound", "Entry not found"))
            return
        content = repo.files[path]
        low, high = _range(self.headers.get("Range", ""), len(content))
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("Accept-Ranges", "bytes")
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {low}-{high - 1}/{len(content)}")
        self.send_header("Content-Length", str(high - low))
        self.end_headers()
        if self.command == "HEAD":
            return
        if path == repo.cut:
            self.wfile.write(content[low : low + (high - low) // 2])
            self.close_connection = True
            return
        self.wfile.write(content[low:high])

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"X-Repo-Commit": COMMIT})

    def _error(self, fault: Fault) -> None:
        status, code, message = fault
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entries(files: Mapping[str, bytes], under: str) -> list[dict[str, object]]:
    """Files and folders below `under`, as the tree's interface tells them."""
    prefix = f"{under}/" if under else ""
    inside = {path: content for path, content in files.items() if path.startswith(prefix)}
    folders = {parent for path in inside for parent in _parents(path) if parent.startswith(prefix) and parent}
    found: list[dict[str, object]] = [
        {"type": "directory", "path": folder, "size": 0, "oid": _oid(folder.encode())}
        for folder in sorted(folders)
    ]
    found += [
        {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
        for path, content in sorted(inside.items())
    ]
    return found


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _paths(headers: Message, body: bytes) -> list[str]:
    """Of a request for several paths: JSON or a form."""
    if "json" in headers.get("Content-Type", ""):
        return [str(path) for path in json.loads(body)["paths"]]
    pairs = (part.partition("=")[::2] for part in body.decode().split("&"))
    return [unquote(value.replace("+", " ")) for key, value in pairs if key == "paths"]


def _range(asked: str, size: int) -> tuple[int, int]:
    """First byte and the one after the last of a Range header; the whole file without one."""
    first, dash, last = asked.removeprefix("bytes=").partition("-")
    if not dash:
        return 0, size
    return int(first), min(size, int(last) + 1 if last else size)
