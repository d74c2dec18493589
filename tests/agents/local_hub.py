"""A server on this machine that speaks as much of the Hugging Face hub's protocol as is used."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class LocalHub:
    """Repositories by id, each a list of commits; a commit is files by path."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.requests: list[str] = []
        self.endpoint = ""

    def commit(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit of these files, all of the repository's; returns its hash."""
        digest = hashlib.sha1(repository.encode() + str(len(self.requests)).encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + content)
        sha = digest.hexdigest()
        self.commits.setdefault(repository, {})[sha] = dict(files)
        self.branches.setdefault(repository, {})[branch] = sha
        return sha

    def resolve(self, repository: str, revision: str) -> str | None:
        return self.branches.get(repository, {}).get(
            revision, revision if revision in self.commits.get(repository, {}) else None
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, record: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(status, json.dumps(record).encode(), kind | (headers or {}))

    def _missing(self, code: str) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": code}
        self._json({"error": code}, 404, said)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        for pattern, method in (
            (r"/api/models/([^/]+/[^/]+)/revision/(.+)", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
            (r"/api/models/([^/]+/[^/]+)()", self._info),
            (r"/api/repos/create()()", self._create),
        ):
            if found := re.fullmatch(pattern, path):
                return method(found[1], found[2], body)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        return self._missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _info(self, repository: str, revision: str, body: bytes) -> None:
        if repository not in self.hub.branches:
            return self._missing("RepoNotFound")
        sha = self.hub.resolve(repository, revision or "main")
        if sha is None and repository in self.hub.commits:
            return self._missing("RevisionNotFound")
        files = self.hub.commits.get(repository, {}).get(sha or "", {})
        siblings = [{"rfilename": name} for name in files]
        return self._json({"id": repository, "sha": sha, "siblings": siblings, "tags": []})

    def _tree(self, repository: str, revision: str, body: bytes) -> None:
        files = self.hub.commits[repository][str(self.hub.resolve(repository, revision))]
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in files.items()
        ]
        return self._json(entries)

    def _file(self, repository: str, revision: str, path: str) -> None:
        sha = self.hub.resolve(repository, revision)
        content = self.hub.commits.get(repository, {}).get(str(sha), {}).get(path)
        if content is None:
            return self._missing("EntryNotFound")
        headers = {"X-Repo-Commit": str(sha), "ETag": f'"{_oid(content)}"'}
        return self._send(200, content, headers)

    def _create(self, _: str, __: str, body: bytes) -> None:
        asked = json.loads(body)
        repository = f"{asked['organization']}/{asked['name']}"
        self.hub.branches.setdefault(repository, {})
        return self._json({"url": f"{self.hub.endpoint}/{repository}", "id": repository})

    def _preupload(self, repository: str, revision: str, body: bytes) -> None:
        files = [
            {
                "path": file["path"],
                # Large files go to another store, Xet, by compiled code that knows no such server.
                "uploadMode": "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        return self._json({"files": files})

    def _commit(self, repository: str, revision: str, body: bytes) -> None:
        before = self.hub.resolve(repository, revision)
        files = dict(self.hub.commits.get(repository, {}).get(str(before), {}))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
        sha = self.hub.commit(repository, files, revision)
        url = f"{self.hub.endpoint}/{repository}/commit/{sha}"
        return self._json({"commitOid": sha, "commitUrl": url, "success": True})


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve_hub() -> Iterator[LocalHub]:
    """Serve an empty hub on a free port of this machine."""
    hub = LocalHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
