"""A judge behind an OpenAI-compatible chat server: one request per question, one connection pool, no retry of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import aiohttp

from rayrl.annotations import JudgeAnswer
from rayrl.feedback.judges.base import JudgeError
from rayrl.types import SamplingParams

_MOST_BYTES = 4 << 20
"""Of one response; more is garbage."""
_LONGEST_PAUSE_S = 300.0


class HttpJudge:
    """``base_url`` ends before ``/chat/completions``. The key travels in a header and is never printed."""

    def __init__(self, base_url: str, model: str, key: str | None, concurrency: int) -> None:
        self._url, self._model, self._concurrency = base_url.rstrip("/"), model, concurrency
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def model(self) -> str:
        return self._model

    async def answer(self, messages: Sequence[Mapping[str, str]], sampling: SamplingParams, deadline_s: float) -> JudgeAnswer:
        """See `protocols.Judge.answer`."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(messages),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._concurrency)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, trust_env=True)
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._session.post(f"{self._url}/chat/completions", json=body, timeout=None) as response,
            ):
                data = await response.content.read(_MOST_BYTES + 1)
                while len(data) <= _MOST_BYTES and (more := await response.content.read(_MOST_BYTES + 1 - len(data))):
                    data += more
                status, headers = response.status, response.headers
        except TimeoutError:
            raise JudgeError("timeout", f"{self._url} did not answer within {deadline_s:g} s", "raise feedback.deadline_s") from None
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as e:
            hint = "is the server running, and feedback.base_url right?"
            raise JudgeError("connection", f"cannot reach {self._url}: {e or type(e).__name__}", hint) from None
        except (aiohttp.ClientError, ValueError) as e:
            raise JudgeError("garbage", f"{self._url} does not speak HTTP as expected: {e or type(e).__name__}") from None
        if status != 200:
            raise _refusal(status, headers, data, self._url, self._model)
        return _read(data, self._url)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _refusal(status: int, headers: Mapping[str, str], data: bytes, url: str, model: str) -> JudgeError:
    said = " ".join(data[:300].decode("utf-8", "replace").split())
    pause = _retry_after(headers.get("Retry-After", ""))
    if status in (401, 403):
        return JudgeError(
            "key", f"{url} refuses the key ({status}): {said}", "set feedback.api_key_env to the variable that holds a valid one"
        )
    if status == 404:
        return JudgeError("model", f"{url} has no model {model!r} or no /chat/completions (404): {said}", "see GET /models; feedback.model")
    if status == 429:
        return JudgeError("rate", f"{url} asks for fewer requests (429): {said}", "set feedback.budget.requests_per_minute", pause_s=pause)
    if 400 <= status < 500 and status not in (408, 409, 425):
        return JudgeError("request", f"{url} refuses the request ({status}): {said}", "is the prompt longer than the model's context?")
    return JudgeError("http", f"{url} failed ({status}): {said}", pause_s=pause)


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header: a number or a date; 0 for anything else."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(0.0, seconds), _LONGEST_PAUSE_S) if seconds == seconds else 0.0


def _read(data: bytes, url: str) -> JudgeAnswer:
    if len(data) > _MOST_BYTES:
        raise JudgeError("garbage", f"{url} sent more than {_MOST_BYTES >> 20} MiB for one answer")
    try:
        response = json.loads(data)
        choice, usage = response["choices"][0], response.get("usage") or {}
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError("content is not a string")
        prompt, completion = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        if prompt < 0 or completion < 0:
            raise ValueError("negative token counts")
        return JudgeAnswer(text, str(response.get("model", "")), prompt, completion, choice.get("finish_reason") == "length")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
        said = " ".join(data[:120].decode("utf-8", "replace").split())
        raise JudgeError("garbage", f"{url} sent no chat completion ({type(e).__name__}): {said!r}") from None
