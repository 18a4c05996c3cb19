"""The page of a run with all of its trajectories, from a small server that only this machine reaches.

Listens on the loopback address. Answers five fixed addresses and nothing else: no part of a request is ever used as a path, so there is
no file to ask for. Requests that come under another name than this machine's own (a web page that had its name point here) are refused.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrl.errors import ConfigError
from rayrl.report.details import Decode, read_details, token_decoder
from rayrl.report.page import Seen, judgements, look, packed, plotly_script, shell, typed

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost")
_LONGEST_SEARCH = 200


class Viewer:
    """What the server knows of one run. Safe to call from several threads."""

    def __init__(self, run_dir: Path) -> None:
        """Raises `ConfigError` where ``run_dir`` is no folder, `EnvironmentMissing` without the packages of the page."""
        self._dir, self._lock = run_dir, threading.Lock()
        self._seen = look(run_dir)
        self._plotly = plotly_script()

    @cached_property
    def _decode(self) -> Decode:
        """Late: a tokenizer takes its time, and the first page does without."""
        return token_decoder(self._seen.run)[0]

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[str, bytes] | None:
        """Content type and body; None for an address that does not exist, `ValueError` for a question that makes no sense."""
        if path == "/":
            return "text/html; charset=utf-8", shell(self._newest()).encode()
        if path == "/plotly.js":
            return "text/javascript; charset=utf-8", self._plotly.encode()
        if path == "/api/index":
            return "application/octet-stream", packed(self._newest().index)
        if path == "/api/trajectory":
            return _json(self._trajectory(int(query["row"][0])))
        if path == "/api/search":
            return _json({"rows": typed(self._search(query["text"][0]))})
        return None

    def _newest(self) -> Seen:
        """Read again, because the run may go on; rows keep their numbers, because parts are only added."""
        with self._lock:
            self._seen = look(self._dir, self._seen)
            return self._seen

    def _trajectory(self, row: int) -> dict[str, Any]:
        index = self._seen.index
        if not 0 <= row < len(index):
            raise ValueError(f"no row {row}")
        return read_details(index, [row], self._decode, judgements(self._seen.run))[row]

    def _search(self, text: str) -> np.ndarray:
        """int32 rows whose prompt, text or id holds ``text``, whatever its case."""
        if len(text) > _LONGEST_SEARCH:
            raise ValueError("too long a text to search for")
        index, starts, found = self._seen.index, 0, []
        for path in index.parts:
            try:
                table = pq.read_table(path, columns=["id", "prompt_text", "text"])
            except (OSError, pa.ArrowException, KeyError):
                continue
            hits = np.zeros(table.num_rows, bool)
            for column in table.columns:
                hits |= pc.fill_null(pc.match_substring(column, text, ignore_case=True), False).to_numpy()
            found.append(np.flatnonzero(hits) + starts)
            starts += table.num_rows
        return np.concatenate([np.empty(0, np.int64), *found]).astype(np.int32)


def start(run_dir: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server that is bound but does not serve yet; ``port`` 0 takes a free one. Raises `ConfigError` for one that cannot be had."""
    viewer = Viewer(run_dir)

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "rayrl", ""

        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if host not in _NAMES:
                return self.send_error(403, "this server answers to its own machine only")
            asked = urlsplit(self.path)
            try:
                found = viewer.answer(asked.path, parse_qs(asked.query, keep_blank_values=True))
            except (ValueError, KeyError, IndexError):
                return self.send_error(400)
            if found is None:
                return self.send_error(404)
            kind, body = found
            self.send_response(200)
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *_HEADERS):
                self.send_header(name, value)
            with suppress(ConnectionError):  # the page was left meanwhile
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet: the reader is in front of the page."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"port {port} cannot be had: {error}", "give another --port, or none for any that is free") from error


def serve(run_dir: Path, port: int, ready: Callable[[str], None]) -> None:
    """Until interrupted. ``ready`` is told the address."""
    with start(run_dir, port) as server:
        ready(f"http://{HOST}:{server.server_address[1]}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value, separators=(",", ":")).encode()
