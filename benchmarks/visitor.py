"""The web page in a process of its own, and someone who looks at it by HTTP as a browser does."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.measure import ROOT
from utils import run

START_SECONDS = 300


class Refused(Exception):
    """The page refused a request; the message is its own."""


class Visitor:
    """An open page of a browser."""

    def __init__(self, url: str) -> None:
        self.api = f"{url}/gradio_api"
        self.session = uuid.uuid4().hex
        self.http = httpx.Client(timeout=None)
        dependencies = self.http.get(f"{url}/config").json()["dependencies"]
        self.functions = {entry["api_name"]: entry["id"] for entry in dependencies}
        self.heartbeat = self.http.send(
            self.http.build_request("GET", f"{self.api}/heartbeat/{self.session}"), stream=True
        )
        self.beats = self.heartbeat.iter_raw()  # dropping it would close the page
        next(self.beats)

    def upload(self, paths: list[Path]) -> list[dict]:
        """Upload files and tell the page that they are its own; gives what the handlers take for them."""
        files = [("files", (path.name, path.read_bytes())) for path in paths]
        answer = self.http.post(f"{self.api}/upload", files=files)
        if answer.is_error:
            raise Refused(answer.text)
        uploads = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in answer.json()]
        body = {"data": [uploads], "session_hash": self.session}
        self.http.post(f"{self.api}/run/claim", json=body).raise_for_status()
        return uploads

    def ask(self, function: str, data: list) -> None:
        """Put a request into the queue."""
        body = {"data": data, "fn_index": self.functions[function], "session_hash": self.session}
        answer = self.http.post(f"{self.api}/queue/join", json=body)
        if answer.is_error:
            raise Refused(answer.json()["detail"])

    def answer(self) -> list:
        """Wait for the answer of the queue."""
        with self.http.stream("GET", f"{self.api}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:") or "{}")
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise Refused(str(message["output"]))
                    return message["output"]["data"]
        raise Refused("the stream ended")

    def fetch(self, file: dict) -> bytes:
        """Download a file that an answer names."""
        return self.http.get(f"{self.api}/file={file['path']}").raise_for_status().content

    def close(self) -> None:
        """Close the page."""
        self.heartbeat.close()
        self.http.close()


@contextlib.contextmanager
def serve(home: Path) -> Iterator[tuple[str, int]]:
    """Run the page in a process of its own, with its files below `home`; gives its address and process number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "demo_lab.py"), "--port", str(port), "--device", "cpu"]
    with open(home / "log.txt", "w") as log:
        server = subprocess.Popen(command, cwd=home, env={**os.environ, "TMPDIR": str(home)}, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(2 * START_SECONDS):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
                break
            if server.poll() is not None:
                raise run.UserError(f"demo_lab.py ended: {(home / 'log.txt').read_text()[-300:]}")
            time.sleep(0.5)
        else:
            raise run.UserError(f"demo_lab.py does not answer within {START_SECONDS} s; try again on an idle machine")
        yield url, server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
