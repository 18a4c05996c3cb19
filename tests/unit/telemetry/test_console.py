"""What a person sees: aligned, at most 120 columns, no escape codes in a pipe, and never at the mercy of a policy's output."""

import io
import re
import subprocess
import sys

import pytest

from rayrl.telemetry.console import Console, percent, short

ROW = {"step": "3/60", "reward": 0.5, "accuracy": 0.25, "tokens_per_s": 2140, "staleness": 0.5, "mismatch": 0.00123, "kl": 0.01}
ROW |= {"length": 48.4, "seconds": 3.2}


def printed(use, width=None, encoding="utf-8", color=None):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    use(Console(file, width=width, color=color))
    file.flush()
    return raw.getvalue().decode(encoding)


def everything(console):
    console.header("digits", {"policy": "tiny · bfloat16", "folder": "runs/digits"})
    console.say("starting")
    console.step(ROW | {"bound": "rollout (learner waited 48 %)"})
    console.step({"step": 4})
    console.evaluation(4, 0.412, 256)
    console.before_after({"addition": 0.1}, {"addition": 0.4, "copy": 0.3})
    console.samples("after", [{"prompt": "x" * 300, "completion": "y\n" * 30, "ground_truth": "z", "correct": False}])
    console.error("it broke", "mend it")


def test_a_pipe_gets_plain_text_within_120_columns():
    text = printed(everything)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert all(line == line.rstrip() for line in text.splitlines())


def test_columns_stand_under_their_heads():
    head, row, empty = (line for line in printed(lambda c: (c.step(ROW), c.step({"step": 4}))).splitlines() if line)
    for name, value in [("step", "3/60"), ("acc", "25.0 %"), ("tok/s", "2.14k"), ("mismatch", "0.0012"), ("KL", "0.0100"), ("s", "3.2")]:
        end = [m.end() for m in re.finditer(rf"(?<!\S){re.escape(name)}(?!\S)", head)][-1]
        assert row[:end].endswith(value), name
    assert empty.split() == ["4"] + ["–"] * 8


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_a_narrow_terminal_loses_columns_not_alignment(width):
    text = printed(lambda c: c.step(ROW | {"bound": "learner (rollout waited 10 %)"}), width=width)
    head, row = (line for line in text.splitlines() if line)
    assert len(row) <= width and len(head) <= width
    assert "reward" in head and "step" in head
    assert ("bound" in head) == ("waited" in row)


def test_the_head_comes_back_so_that_it_stays_in_sight():
    text = printed(lambda c: [c.step(ROW) for _ in range(65)])
    assert text.count("mismatch") == 3


def test_an_ascii_terminal_gets_ascii():
    assert printed(everything, encoding="ascii").isascii()


def test_colour_only_where_it_is_wanted(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in printed(everything, color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(everything, color=True)


def test_what_a_policy_writes_cannot_command_the_terminal():
    sample = {"prompt": "[bold]p[/bold]", "completion": "a\x1b[2Jb\x07\rc", "correct": True}
    text = printed(lambda c: c.samples("after", [sample]), color=False)
    assert "\x1b" not in text and "\x07" not in text and "\r" not in text
    assert "a\\x1b[2Jb" in text and "[bold]p[/bold]" in text


def test_before_and_after_show_the_difference_in_points():
    lines = printed(lambda c: c.before_after({"a": 0.125, "b": 0.5}, {"a": 0.481, "b": 0.45, "new": 0.3})).splitlines()
    assert re.search(r"a\s+12\.5 %\s+48\.1 %\s+\+35\.6", lines[2])
    assert re.search(r"b\s+50\.0 %\s+45\.0 %\s+-5\.0", lines[3])
    assert re.search(r"new\s+–\s+30\.0 %", lines[4])
    assert len({line.index(next(c for c in line if c in "█▓░")) for line in lines[2:5]}) == 1


def test_an_error_comes_with_its_hint():
    lines = printed(lambda c: c.error("it broke\nbadly", "mend it")).splitlines()
    assert lines[1:] == [
        "  error  it broke",
        "         badly",
        "  hint   mend it",
    ]


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (999, "999"), (999.9, "1k"), (2140, "2.14k"), (1.5e6, "1.5M"), (2e9, "2G")])
def test_numbers_are_short(number, text):
    assert short(number) == text


def test_percent():
    assert percent(0.4812) == "48.1 %"


def test_a_run_whose_reader_is_gone_goes_on_in_silence(tmp_path):
    work = "input(); c = Console(); [c.say('x' * 1000) for _ in range(200)]; open(sys.argv[1], 'w').write('on')"
    command = [sys.executable, "-c", f"import sys; from rayrl.telemetry.console import Console; {work}", str(tmp_path / "went")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(60) == 0 and (tmp_path / "went").read_text() == "on"
