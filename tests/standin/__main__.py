"""Command line of the stand-in; see the package's text."""

from __future__ import annotations

import argparse
import asyncio
import signal

from aiohttp import web

from tests.standin import rules
from tests.standin.opinions import CONTROLS
from tests.standin.prose import FAULTS
from tests.standin.server import NETWORK_FAULTS, Settings, StandIn


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.standin", description="A judge without a language model, on the loopback interface."
    )
    parser.add_argument("--port", type=int, default=9001, help="0 takes a free one; the first line printed names it")
    parser.add_argument("--latency", type=float, default=0.0, help="mean seconds per answer, lognormal (a real server: 8 at 100 in flight)")
    parser.add_argument("--spread", type=float, default=0.6, help="sigma of the lognormal")
    parser.add_argument("--wrong", type=float, default=0.0, help="share of texts that it is wrong about, for good")
    parser.add_argument("--control", choices=CONTROLS, default="none", help="opinions without information, for negative controls")
    parser.add_argument("--model", default="judge", help="the only model it knows")
    parser.add_argument("--key", default="", help="refuse requests without this key")
    parser.add_argument("--late-s", type=float, default=600.0, help="how late a late answer is")
    parser.add_argument("--seed", type=int, default=0)
    for fault in (*FAULTS, *NETWORK_FAULTS):
        parser.add_argument(f"--{fault}", type=float, default=0.0, metavar="SHARE")
    return parser.parse_args(argv)


async def serve(given: argparse.Namespace) -> None:
    rates = {fault: getattr(given, fault) for fault in (*FAULTS, *NETWORK_FAULTS)}
    settings = Settings(given.latency, given.spread, rates, given.late_s, given.control, given.wrong, given.model, given.key, given.seed)
    runner = web.AppRunner(StandIn(settings).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", given.port)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    print(f"judge {settings.model} at http://127.0.0.1:{port}/v1, rules {rules.digest}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


asyncio.run(serve(arguments())) if __name__ == "__main__" else None
