"""One look at a judge's server before a run starts: is it there, does it take the key, does it have the model?"""

from __future__ import annotations

import asyncio
import json
import os

import aiohttp

from rayrl.config.schema import FeedbackConfig
from rayrl.errors import ConfigError
from rayrl.plugins import nearest

_LIMIT_S = 5.0
_MOST_BYTES = 4 << 20


def require(feedback: FeedbackConfig) -> None:
    """Raises `ConfigError` for a server that does not answer, refuses the key or lists other models. One that has no list of models
    passes: the first question will tell."""
    url, key = feedback.base_url.rstrip("/"), os.environ.get(feedback.api_key_env or "")
    try:
        status, data = asyncio.run(_models(url, key))
    except (aiohttp.ClientError, OSError, TimeoutError) as e:
        raise ConfigError(
            f"no judge answers at feedback.base_url {url}: {e or type(e).__name__}",
            "start one (`vllm serve MODEL`), or name another address; feedback.judge=none goes without",
        ) from None
    if status in (401, 403):
        raise ConfigError(f"{url} refuses the key ({status})", "set feedback.api_key_env to the variable that holds a valid one")
    names = _names(data) if status == 200 else []
    if names and feedback.model not in names:
        raise ConfigError(
            f"feedback.model: {url} has no model {feedback.model!r}", f"{nearest(feedback.model, names)}it has {', '.join(names[:10])}"
        )


async def _models(url: str, key: str | None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
    async with (
        aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=True) as session,
        session.get(f"{url}/models") as response,
    ):
        return response.status, await response.content.read(_MOST_BYTES)


def _names(data: bytes) -> list[str]:
    """Empty for anything that is no list of models."""
    try:
        return [str(model["id"]) for model in json.loads(data)["data"]]
    except (ValueError, KeyError, TypeError):
        return []
