"""The stand-in behind HTTP: latency, faults of the network, and counters."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

from tests.standin import rules
from tests.standin.opinions import Opinions
from tests.standin.prose import FAULTS, write
from tests.standin.reading import read_prompt

NETWORK_FAULTS = ("error", "busy", "late", "garbage", "drip")
"""Status 500; status 429 with Retry-After; an answer long after every deadline; bytes that are no JSON; one byte at a time."""


@dataclass
class Settings:
    latency_s: float = 0.0
    """Mean of the lognormal latency of an answer."""
    spread: float = 0.6
    """Its sigma."""
    rates: dict[str, float] = field(default_factory=dict)
    """Share of requests with each fault."""
    late_s: float = 600.0
    control: str = "none"
    wrong: float = 0.0
    model: str = "judge"
    key: str = ""
    seed: int = 0


class StandIn:
    """One server's state. The fault of a request depends on the seed, its prompt and how often that prompt came before."""

    def __init__(self, settings: Settings) -> None:
        unknown = settings.rates.keys() - {*FAULTS, *NETWORK_FAULTS}
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}")
        self.settings = settings
        self.opinions = Opinions(settings.control, settings.wrong, settings.seed)
        self.asked: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.running = self.most_running = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=8 << 20)
        app.add_routes([web.post("/v1/chat/completions", self.complete), web.get("/v1/models", self.models), web.get("/stats", self.stats)])
        return app

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.counts["requests"] += 1
        if self.settings.key and request.headers.get("Authorization") != f"Bearer {self.settings.key}":
            return _error(401, "invalid api key")
        try:
            body = await request.json()
            prompt, model = "\n".join(m["content"] for m in body["messages"]), body["model"]
        except (ValueError, KeyError, TypeError):
            return _error(400, "not a chat completion request")
        if model != self.settings.model:
            return _error(404, f"the model {model!r} does not exist; there is {self.settings.model!r}")
        digest = hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()
        rng = random.Random(f"{self.settings.seed}/{digest}/{self.asked[digest]}")
        self.asked[digest] += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(request, prompt, model, rng)
        finally:
            self.running -= 1

    async def _answer(self, request: web.Request, prompt: str, model: str, rng: random.Random) -> web.StreamResponse:
        fault = self._fault(rng)
        self.counts[fault or "proper"] += 1
        if self.settings.latency_s:
            sigma = self.settings.spread
            await asyncio.sleep(rng.lognormvariate(math.log(self.settings.latency_s) - sigma**2 / 2, sigma))
        if fault == "error":
            return _error(500, "internal error")
        if fault == "busy":
            return web.json_response({"error": {"message": "too many requests"}}, status=429, headers={"Retry-After": "0.2"})
        if fault == "late":
            await asyncio.sleep(self.settings.late_s)
        if fault == "garbage":
            return web.Response(text="<html>502 Bad Gateway</html>", content_type="text/html")
        reading = read_prompt(prompt)
        if reading is None:
            text, cut = "I do not understand what I am asked to do.", False
        else:
            content = self.opinions.answer(reading)
            self.counts[f"said {content}"] += reading.tag in ("label", "best")
            text, cut = write(reading.tag, content, rng, fault if fault in FAULTS else "")
        answer = {
            "id": "standin",
            "object": "chat.completion",
            "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length" if cut else "stop"}],
            "usage": {
                "prompt_tokens": len(prompt) // 4,
                "completion_tokens": len(text) // 4,
                "total_tokens": (len(prompt) + len(text)) // 4,
            },
        }
        return await _drip(request, answer) if fault == "drip" else web.json_response(answer)

    def _fault(self, rng: random.Random) -> str:
        draw = rng.random()
        for name, rate in self.settings.rates.items():
            if draw < rate:
                return name
            draw -= rate
        return ""

    async def models(self, request: web.Request) -> web.Response:
        if self.settings.key and request.headers.get("Authorization") != f"Bearer {self.settings.key}":
            return _error(401, "invalid api key")
        return web.json_response({"object": "list", "data": [{"id": self.settings.model, "object": "model"}]})

    async def stats(self, request: web.Request) -> web.Response:
        """What was asked: requests, distinct prompts, prompts asked more than once."""
        again = sum(count - 1 for count in self.asked.values())
        numbers = {"distinct": len(self.asked), "again": again, "most_running": self.most_running, "rules": rules.digest}
        return web.json_response(numbers | dict(self.counts))


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)


async def _drip(request: web.Request, answer: dict) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for byte in json.dumps(answer).encode():
        await response.write(bytes([byte]))
        await asyncio.sleep(0.2)
    return response
