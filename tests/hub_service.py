"""A stand-in for the Hugging Face Hub on this machine: repositories in memory, over HTTP.

It has the addresses that huggingface_hub and datasets call to write and to read a repository.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_token"


class Hub:
    """`files[kind, "user/name", revision]` is a dict of bytes; `asked` has all requests so far."""

    def __init__(self):
        self.files, self.objects, self.commits, self.asked = {}, {}, [], []
        self.truncated, self.failing = set(), set()  # repositories that break off, and that fail

    def sha(self, kind, repo, revision):
        return hashlib.sha1(repr(self.files[kind, repo, revision]).encode()).hexdigest()

    def find(self, kind, repo, revision):
        """The files of a branch, or of the commit that is its present state."""
        for (a, b, branch), files in self.files.items():
            if (a, b) == (kind, repo) and revision in (branch, self.sha(a, b, branch)):
                return branch, files
        return None, None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status=200, body=b"", **headers):
        if not isinstance(body, bytes):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code):
        self.answer(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def serve(self):
        hub, address = self.server.hub, urlsplit(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        hub.asked.append(f"{self.command} {path}")
        if any(repo in path for repo in hub.failing):
            return self.answer(500, {"error": "the service is down"})
        if self.command in ("POST", "PUT") and "paths-info" not in path:
            return self.write(hub, path, data)
        asked = r"/api/(\w+)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/(.+))?"
        if match := re.fullmatch(asked, path):
            return self.describe(hub, *match.groups(), query, data)
        if match := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.read(hub, match[1] or "models", *match.groups()[1:])
        return self.missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def write(self, hub, path, data):
        if path == "/api/validate-yaml":
            return self.answer(body={"errors": [], "warnings": []})
        if path.startswith("/objects/"):
            assert hashlib.sha256(data).hexdigest() == path.removeprefix("/objects/")
            hub.objects[path.removeprefix("/objects/")] = data
            return self.answer()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(data)
            repo = f"{asked['organization']}/{asked['name']}"
            exists = ("models", repo, "main") in hub.files
            hub.files.setdefault(("models", repo, "main"), {})
            url = f"{self.server.url}/{repo}"
            return self.answer(409 if exists else 200, {"url": url, "error": "it exists already"})
        if match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(data)["objects"]
            for one in objects:
                upload = {"href": f"{self.server.url}/objects/{one['oid']}"}
                one["actions"] = {"upload": upload}
            return self.answer(body={"transfer": "basic", "objects": objects})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/(.+)", path)
        repo, action, branch = match.groups()
        if (files := hub.files.get(("models", repo, branch))) is None:
            return self.missing("RevisionNotFound")
        if action == "preupload":
            names = [file["path"] for file in json.loads(data)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            described = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False}
                for name, mode in modes.items()
            ]
            return self.answer(body={"files": described})
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
        hub.commits.append(dict(files))
        sha = hub.sha("models", repo, branch)
        url = f"{self.server.url}/{repo}/commit/{sha}"
        return self.answer(body={"commitUrl": url, "commitOid": sha})

    def describe(self, hub, kind, repo, what, rest, query, data):
        if (kind, repo, "main") not in hub.files:
            return self.missing("RepoNotFound")
        revision, _, folder = (rest or "main").partition("/")
        branch, files = hub.find(kind, repo, revision)
        if branch is None:
            return self.missing("RevisionNotFound")
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": self.etag(content)}
            for name, content in files.items()
        ]
        folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
        tree += [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)]
        if what == "tree":
            start = folder and folder + "/"
            tree = [one for one in tree if one["path"].startswith(start)]
            if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
                tree = [one for one in tree if "/" not in one["path"].removeprefix(start)]
            return self.answer(body=tree) if tree else self.missing("EntryNotFound")
        if what == "paths-info":
            sent = parse_qs(data.decode()) if b"=" in data[:6] else json.loads(data)
            return self.answer(body=[one for one in tree if one["path"] in sent["paths"]])
        siblings = [{"rfilename": name} for name in files]
        sha = hub.sha(kind, repo, branch)
        return self.answer(body={"id": repo, "sha": sha, "siblings": siblings, "tags": []})

    def read(self, hub, kind, repo, revision, name):
        if (kind, repo, "main") not in hub.files:
            return self.missing("RepoNotFound")
        branch, files = hub.find(kind, repo, revision)
        if branch is None or name not in files:
            return self.missing("RevisionNotFound" if branch is None else "EntryNotFound")
        content = files[name]
        headers = {"ETag": f'"{self.etag(content)}"', "X-Repo-Commit": hub.sha(kind, repo, branch)}
        if repo in hub.truncated and self.command == "GET":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        return self.answer(body=content, **headers)

    @staticmethod
    def etag(content):
        return hashlib.sha1(content).hexdigest()


@contextmanager
def hub_service():
    """Yields a `Hub` that is served at its `url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.url = Hub(), f"http://127.0.0.1:{server.server_port}"
    server.hub.url = server.url
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
