"""A stand-in for the Hugging Face hub: the part of its HTTP interface that uploads and downloads.

It keeps one commit of each repository in memory. Large files come by Git LFS, as its clients do
without the package hf_xet.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_a_test"
LARGE = (".safetensors", ".onnx", ".pt2", ".bin")  # which the hub's own rules send to LFS


def sha1(content: bytes) -> str:
    """As git names objects and commits."""
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


class Hub(ThreadingHTTPServer):
    """repositories: path -> bytes, by name; created: what clients asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: Any) -> None:
        """Nothing: what was asked is in the server's lists."""

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        body, path = self.body(), self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            told = json.loads(body)
            self.server.created.append(told)
            name = f"{told['organization']}/{told['name']}"
            self.server.repositories.setdefault(name, {})
            self.answer({"url": f"{self.server.address}/{name}", "name": name})
        elif found := re.fullmatch(r"/api/models/(\S+)/preupload/main", path):
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self.answer({"transfer": "basic", "objects": self.upload_places(json.loads(body))})
        elif found := re.fullmatch(r"/api/models/(\S+)/commit/main", path):
            self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        else:
            self.answer({"error": f"no {path}"}, 404)

    def upload_places(self, told: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {**one, "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}}
            for one in told["objects"]
        ]

    def do_PUT(self) -> None:
        body = self.body()
        assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
        self.server.objects[hashlib.sha256(body).hexdigest()] = body
        self.answer(b"")

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.server.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = self.commit_of(name)
        address = f"{self.server.address}/{name}/commit/{commit}"
        self.answer({"success": True, "commitOid": commit, "commitUrl": address})

    def commit_of(self, name: str) -> str:
        return sha1(b"".join(self.server.repositories[name].values()))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if name not in self.server.repositories:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+(/revision/\S+)?", path):
            siblings = [{"rfilename": file} for file in self.server.repositories[name]]
            told = {"id": name, "sha": self.commit_of(name), "siblings": siblings, "tags": []}
            self.answer({**told, "private": False, "downloads": 0, "likes": 0})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/tree/\S+", path):
            self.answer(
                [
                    {"type": "file", "path": file, "size": len(content), "oid": sha1(content)}
                    for file, content in self.server.repositories[name].items()
                ]
            )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(\S+)", path):
            content = self.server.repositories[found[1]].get(found[2])
            if content is None:
                self.answer({"error": "none"}, 404, X_Error_Code="EntryNotFound")
                return
            etag = hashlib.sha256(content).hexdigest()
            self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=self.commit_of(found[1]))
        else:
            self.answer({"error": f"no {path}"}, 404)

    do_HEAD = do_GET  # noqa: N815 - the name that the server looks for


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """A hub of its own, gone afterwards."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
