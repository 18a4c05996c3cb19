"""The command line: `rayrl COMMAND`. Light to import; each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from rayrl.cli.parser import build_parser
from rayrl.errors import RayrlError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status. Errors that are meant for a person are printed without a traceback."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(r.startswith("-") or "=" not in r for r in rest) or (rest and "overrides" not in arguments):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse gives up on positional arguments that follow an option
        arguments.overrides = [*arguments.overrides, *rest]
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        return int(arguments.command(arguments) or 0)
    except RayrlError as error:
        with suppress(BrokenPipeError):  # nobody listens any more; the exit code still says it
            print(f"rayrl: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"  hint: {error.hint}", file=sys.stderr)
            if error.first:
                print(f"  first failure: {error.first}", file=sys.stderr)
            if error.crash:
                print(f"  all of it: {error.crash}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rayrl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return 0
