"""The local server: this machine only, five addresses, no way to any file."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading

import numpy as np
import pytest
from made_up import made_up_run

from rayrl.errors import ConfigError
from rayrl.report.index import read_index
from rayrl.report.page import columns, packed
from rayrl.report.server import start

pytest.importorskip("plotly", reason="reports need plotly")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "secret.txt").write_text("secret")
    server = start(made_up_run(folder / "run"))
    server.run = folder / "run"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def ask(server, path, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_address[1]}")
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    outside = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in set(outside) - {"127.0.0.1"}:
        if address.startswith("127."):
            continue
        with pytest.raises(OSError), socket.create_connection((address, server.server_address[1]), timeout=2):
            pass


def test_an_occupied_port_is_named_with_what_to_do(server, tmp_path):
    port = server.server_address[1]
    with pytest.raises(ConfigError, match=f"port {port} cannot be had") as refused:
        start(made_up_run(tmp_path / "run"), port)
    assert "--port" in refused.value.hint


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/rollouts/step-00000001.parquet",
        "/config.yaml",
        "/api/trajectory/../../config.yaml",
        "/api/",
        "/plotly.js/../../../etc/passwd",
        "/\\..\\secret.txt",
    ],
)
def test_there_is_no_way_to_a_file(server, path):
    status, body, _ = ask(server, path)
    assert status == 404 and b"secret\n" not in body and b"root:" not in body


@pytest.mark.parametrize("query", ["", "row=", "row=x", "row=-1", "row=96", "row=1e3", "row=../1", "row=99999999999999999999"])
def test_a_senseless_question_is_refused(server, query):
    assert ask(server, f"/api/trajectory?{query}")[0] == 400


def test_only_reading_is_possible(server):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, "/", method)[0] == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"])
def test_another_name_for_this_machine_is_refused(server, host):
    """A page of the web that had its name point to this machine must not read the run."""
    assert ask(server, "/", host=host)[0] == 403


def test_what_it_serves_is_the_run(server):
    status, page, headers = ask(server, "/")
    assert status == 200 and b"<script" in page and "default-src 'none'" in page.decode() and headers["X-Content-Type-Options"] == "nosniff"
    index = read_index(server.run / "rollouts")
    assert len(index) == 96 and ask(server, "/api/index")[1] == packed(index)
    assert json.loads(ask(server, "/api/trajectory?row=17")[1])["id"] == "4/1"
    assert ask(server, "/plotly.js")[0] == 200


def test_columns_arrive_bit_for_bit(tmp_path):
    """What the page reads from bytes is what a report holds in base64."""
    index = read_index(made_up_run(tmp_path / "run", steps=3, groups=5, samples=3) / "rollouts")
    body, expected = packed(index), columns(index)
    length = int.from_bytes(body[:4], "little")
    head = json.loads(body[4 : 4 + length])
    assert length % 4 == 0 and head["n"] == expected["n"] == 45

    def same(found, wanted) -> int:
        if isinstance(wanted, dict):
            assert found.keys() == wanted.keys()
            return sum(same(found[key], wanted[key]) for key in wanted)
        if not (isinstance(wanted, list) and wanted and wanted[0] in ("i4", "f4", "u1")):
            assert found == wanted
            return 0
        kind, place, count = found
        assert place % 4 == 0 and kind == wanted[0]
        there = np.frombuffer(body, "<" + kind, count, 4 + length + place)
        assert there.tobytes() == base64.b64decode(wanted[1])
        return 1

    assert same(head, expected) == 2 + 10 + 4 + len(index.components)


def test_text_is_found_whatever_its_case_and_never_as_a_pattern(server):
    def found(text):
        rows = json.loads(ask(server, f"/api/search?text={text}")[1])["rows"][1]
        return np.frombuffer(base64.b64decode(rows), "<i4").tolist()

    assert len(found("ANSWER%203-2")) == 6 and found("3/2")[0] == 14 and found(".*") == []
    assert ask(server, "/api/search?text=" + "x" * 300)[0] == 400
