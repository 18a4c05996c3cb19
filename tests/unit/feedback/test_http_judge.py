"""The HTTP judge against the stand-in and against servers that misbehave: each fault has one kind, one clear message, and ends in time."""

import asyncio
import json
import time

import pytest
from aiohttp import web
from scripted_judge import messages, running, wait_for

from rayrl.feedback import templates
from rayrl.feedback.annotator import Annotator
from rayrl.feedback.judges.base import JudgeError
from rayrl.feedback.judges.http import HttpJudge
from rayrl.feedback.store import LabelStore
from rayrl.types import SamplingParams
from tests.standin.process import standin
from tests.standin.server import Settings, StandIn

ASK = [{"role": "user", "content": "Is it?\n<<<\nYou kill the newt!\n>>>\nlike this: <label>CLASS</label>"}]


def served(app, *, key=None, model="judge", deadline_s=2.0):
    """What one question to ``app`` gives: the answer, or the error."""

    async def work():
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        judge = HttpJudge(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1", model, key, 4)
        try:
            return await judge.answer(ASK, SamplingParams(max_tokens=64), deadline_s)
        except JudgeError as e:
            return e
        finally:
            await judge.close()
            await runner.cleanup()

    return asyncio.run(work())


def app_that(handler):
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", handler)])
    return app


def says(**response):
    async def handler(request):
        return web.Response(**response)

    return app_that(handler)


def test_an_answer_comes_with_its_usage():
    answer = served(StandIn(Settings()).app())
    assert "<label>FOO</label>" in answer.text and answer.model == "judge" and not answer.cut_off
    assert answer.prompt_tokens > 0 and answer.completion_tokens > 0


def test_an_answer_that_ran_into_the_limit_says_so():
    assert served(StandIn(Settings(rates={"overlong": 1.0})).app()).cut_off


def completion(**changes):
    body = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]} | changes
    return says(text=json.dumps(body), content_type="application/json")


BAD_SERVERS = {
    "wrong key": (StandIn(Settings(key="secret")).app, "key", "feedback.api_key_env"),
    "unknown model": (StandIn(Settings(model="other")).app, "model", "no model 'judge'"),
    "no such path": (web.Application, "model", "no /chat/completions"),
    "server error": (lambda: says(status=500, text="boom"), "http", "boom"),
    "bad gateway": (lambda: says(status=502, text="<html>" + "x" * 5000), "http", "502"),
    "busy": (lambda: says(status=429, text="slow down", headers={"Retry-After": "7"}), "rate", "slow down"),
    "prompt too long": (lambda: says(status=400, text="context length exceeded"), "request", "context length"),
    "html": (lambda: says(text="<html>hello</html>"), "garbage", "<html>"),
    "empty": (lambda: says(text=""), "garbage", "no chat completion"),
    "not utf-8": (lambda: says(body=b"\xff\xfe\x00\x01" * 20), "garbage", "no chat completion"),
    "json of another kind": (lambda: says(text='["choices"]'), "garbage", "no chat completion"),
    "no choices": (lambda: completion(choices=[]), "garbage", "no chat completion"),
    "no content": (lambda: completion(choices=[{"message": {}}]), "garbage", "no chat completion"),
    "null content": (lambda: completion(choices=[{"message": {"content": None}}]), "garbage", "no chat completion"),
    "negative usage": (lambda: completion(usage={"prompt_tokens": -5}), "garbage", "no chat completion"),
    "endless": (lambda: says(body=b" " * (5 << 20)), "garbage", "4 MiB"),
}


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_a_bad_server_is_told_apart(name):
    build, kind, text = BAD_SERVERS[name]
    error = served(build())
    assert isinstance(error, JudgeError) and error.kind == kind and text in str(error), error
    assert "secret" not in str(error) and len(str(error)) < 600


def test_retry_after_is_obeyed_in_seconds_and_as_a_date():
    assert served(says(status=429, headers={"Retry-After": "7"})).pause_s == 7.0
    from email.utils import formatdate

    assert 3.0 < served(says(status=503, headers={"Retry-After": formatdate(time.time() + 5, usegmt=True)})).pause_s <= 5.0
    for nonsense in ("soon", "-3", "nan", "1e99", ""):
        assert 0.0 <= served(says(status=429, headers={"Retry-After": nonsense})).pause_s <= 300.0


def test_a_server_that_hangs_or_drips_ends_at_the_deadline():
    async def hang(request):
        await asyncio.sleep(60)
        return web.Response()

    for app in (app_that(hang), StandIn(Settings(rates={"drip": 1.0})).app()):
        started = time.monotonic()
        error = served(app, deadline_s=0.5)
        assert error.kind == "timeout" and time.monotonic() - started < 5.0


def test_no_server_at_the_address():
    async def ask():
        judge = HttpJudge("http://127.0.0.1:9/v1", "judge", None, 1)
        try:
            await judge.answer(ASK, SamplingParams(), 2.0)
        finally:
            await judge.close()

    with pytest.raises(JudgeError, match=r"cannot reach http://127\.0\.0\.1:9/v1") as caught:
        asyncio.run(ask())
    assert caught.value.kind == "connection" and caught.value.is_servers_fault


def test_the_whole_way_through_a_real_process_with_all_its_faults(tmp_path, settings):
    """The stand-in as a process: prose, faults, latency; every message ends labelled or failed, and each prompt is answered once."""
    faults = ("--malformed", "0.1", "--refusing", "0.05", "--error", "0.1", "--busy", "0.02", "--garbage", "0.05", "--latency", "0.02")
    with standin(*faults) as server:
        config = settings(base_url=server.url, goal="combat", retry__max_attempts=6, concurrency=16)
        store = LabelStore(tmp_path / "f.sqlite", config, templates.load(config.template), "judge")
        with running(Annotator(config, store, HttpJudge(server.url, "judge", None, 16))) as annotator:
            seen = messages(100)
            annotator.sight(seen, dict.fromkeys(seen, 1))
            assert wait_for(lambda: sum(annotator.stats()[f"feedback/{n}_count"] for n in ("labelled", "failed")) == 100, 60)
            stats, server_stats = annotator.stats(), server.stats()
        assert stats["feedback/labelled_count"] >= 97 and server_stats["distinct"] == 100
        assert server_stats["proper"] == stats["feedback/labelled_count"], "an answer that was good was the last one asked for"
        assert stats["feedback/errors/malformed"] >= 1 and stats["feedback/errors/http"] >= 1


def test_a_server_that_dies_and_comes_back_is_used_again(tmp_path, settings):
    with standin("--latency", "0.05") as server:
        port = server.url.split(":")[2].split("/")[0]
        config = settings(base_url=server.url, concurrency=4, retry__breaker_failures=3)
        store = LabelStore(tmp_path / "f.sqlite", config, templates.load(config.template), "judge")
        with running(Annotator(config, store, HttpJudge(server.url, "judge", None, 4))) as annotator:
            seen = messages(60)
            annotator.sight(seen, dict.fromkeys(seen, 1))
            assert wait_for(lambda: annotator.stats()["feedback/labelled_count"] >= 10)
            server.process.kill()
            server.process.wait()
            assert wait_for(lambda: annotator.stats()["feedback/degraded_bool"], 10)
            assert "cannot reach" in annotator.problem()
            with standin("--port", port):
                assert wait_for(lambda: annotator.stats()["feedback/labelled_count"] == 60, 20)
                assert annotator.stats()["feedback/failed_count"] == 0 and annotator.problem() == ""
