"""The page in a real browser: it loads in silence, draws, filters, obeys the keyboard, fits, and nothing that a run wrote ever runs."""

from __future__ import annotations

import base64
import io
import threading

import numpy as np
import pytest
from made_up import HOSTILE, add_episode, add_fragments, made_up_run

from rayrl.report.page import write
from rayrl.report.server import start

pytest.importorskip("plotly", reason="reports need plotly")
Image = pytest.importorskip("PIL.Image", reason="pixels are counted with pillow")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write([made_up_run(folder / "one", steps=30)], folder / "report.html")


def pixels(page, selector, color, by=40):
    """How many pixels of the first element that matches have about this colour."""
    page.js("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
    page.wait(f"return document.querySelector(`{selector}`).querySelector('.main-svg') !== null")
    page.js("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = page.js(
        "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.x + scrollX, r.y + scrollY, r.width, r.height]",
        selector,
    )
    clip = dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"scale": 1}
    shot = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")).astype(int)
    return int((np.abs(image - np.array(color)) <= by).all(-1).sum())


def name_figure(page, title, name):
    """Gives the chart of this title an id."""
    page.js("[...document.querySelectorAll('figure')].find(f => f.innerText.startsWith(arguments[0])).id = arguments[1]", title, name)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_loads_in_silence_and_fits(page, report, width, dark):
    page.open(report, width=width, dark=dark)
    assert page.complaints() == []
    assert page.js("return document.documentElement.scrollWidth") == width
    background = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(x) for x in background[4:-1].split(",")) < 200) == dark


def test_the_five_answers_are_on_the_first_screen(page, report):
    page.open(report)
    said = page.js("return [...document.querySelectorAll('.answer')].map(a => [a.innerText, a.getBoundingClientRect().bottom])")
    for word, (text, bottom) in zip(
        ["25.0 % → 90.0 %", "480 trajectories", "judge", "Rollouts bound 60 %", "1 worker replaced"], said, strict=True
    ):
        assert word in text and bottom < 900, text


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_curves_are_drawn_in_pixels(page, report, dark):
    page.open(report, dark=dark)
    blue = (107, 161, 245) if dark else (37, 99, 201)
    for i, title in enumerate(("Held-out accuracy", "Reward", "Resident memory by role")):
        name_figure(page, title, f"probed{i}")
        assert pixels(page, f"#probed{i}", blue) > 150, title


def test_the_timeline_is_drawn_and_zooms_to_a_step(page, report):
    page.open(report)
    assert pixels(page, "#timelines .plot", (37, 99, 201)) > 500 and pixels(page, "#timelines .plot", (217, 104, 15)) > 300
    page.js("const i = document.querySelector('#timelines input'); i.value = 7; i.dispatchEvent(new Event('change'))")
    page.wait("return document.querySelector('#timelines .plot').layout.xaxis.range[0] > 11")
    low, high = page.js("return document.querySelector('#timelines .plot').layout.xaxis.range")
    assert 11 < low < 12.1 and 13.9 < high < 15


def test_smoothing_changes_the_curve(page, report):
    page.open(report)
    name_figure(page, "Reward", "reward")
    pixels(page, "#reward", (0, 0, 0))
    line = "const p = document.querySelector('#reward .plot').data; return p[p.length - 1].y"
    before = page.js(line)
    page.js("const s = document.getElementById('smoothing'); s.value = 0; s.dispatchEvent(new Event('input'))")
    assert page.js(line) != before


def test_filters_filter_and_sorting_sorts(page, report):
    page.open(report)
    assert page.shown() == 480
    cases = [("task", "sums", 240), ("finish", "length", 120), ("status", "· zero_variance", 120), ("step-low", "11", 320)]
    for name, value, rows in [*cases, ("text", "answer 2-3", 30)]:
        page.set(name, value)
        page.wait(f"return rayrl.browser.view.length === {rows}")
        page.js("document.querySelector(`#filters [name='clear']`).click()")
        assert page.shown() == 480
    page.set("field", "length")
    page.set("low", "50")
    assert 0 < page.shown() < 480 and page.js("const b = rayrl.browser; return b.view.every(i => b.table.length[i] >= 50)")
    page.js("document.querySelector(`#filters [name='clear']`).click()")
    page.set("sort", "length ↓")
    lengths = page.js("const b = rayrl.browser; return [...b.view].map(i => b.table.length[i])")
    assert lengths == sorted(lengths, reverse=True)
    page.set("sort", "reward ↑")  # unknown rewards come last
    assert page.js("const b = rayrl.browser; return Number.isNaN(b.table.reward[b.view[b.view.length - 1]])")
    assert page.complaints() == []


def test_the_keyboard_walks_colours_and_searches(page, report):
    page.open(report)
    page.js("rayrl.browser.show(rayrl.browser.view[0])")
    page.wait("return rayrl.browser.current?.id === '0/0'")
    page.press("j")
    page.wait("return rayrl.browser.current?.id === '0/1'")
    page.press("l")
    page.wait("return rayrl.browser.current?.id === '0/2'")
    page.press("kh")
    page.wait("return rayrl.browser.current?.id === '0/0'")
    tint = "return document.querySelector('.token').style.background"
    before = page.js(tint)
    page.press("ccc")
    page.wait("return document.querySelector('#detail select').value === 'weight version'")
    assert page.js(tint) != before and "versions 0, 1" in page.js("return document.querySelector('.readout').innerText")
    page.press("/")
    assert page.js("return document.activeElement.name") == "text"
    page.press("answer 3-2")
    page.wait("return rayrl.browser.view.length === 30")
    page.js("document.activeElement.blur()")
    page.press("d")
    assert page.js("return document.documentElement.dataset.theme") == "dark"


def test_one_trajectory_shows_lineage_group_and_the_same_prompt_again(page, report):
    page.open(report)
    page.js("rayrl.browser.show(rayrl.browser.view[1])")
    page.wait("return document.querySelectorAll('.card').length === 4")
    text = page.js("return document.getElementById('detail').innerText")
    told = ["0 (tokens 3–5), 1 (tokens 5", "judge v1", "$0.0010", "I think", "Its group of 4", "The same prompt over training"]
    for word in [*told, "expected: 42"]:
        assert word in text, word
    dropped = page.js("const b = rayrl.browser; return b.view.findIndex(i => !b.table.kept[i])")
    page.js("rayrl.browser.show(rayrl.browser.view[arguments[0]])", dropped)
    page.wait("return document.getElementById('detail').innerText.includes('not trained on: zero_variance')")


@pytest.mark.parametrize("width", [1280, 400])
def test_hostile_runs_are_shown_as_text_and_stay_inert(page, tmp_path, width):
    runs = [made_up_run(tmp_path / "run", text=HOSTILE), made_up_run(tmp_path / "other", seed=1, text=HOSTILE)]
    out = write(runs, tmp_path / "report.html")
    page.open(out, width=width)
    height = page.js("return document.documentElement.scrollHeight")
    for y in range(0, height, 500):  # so that every chart is drawn
        page.js("scrollTo(0, arguments[0]); return new Promise(done => setTimeout(done, 30))", y)
    for i in range(3):
        page.js("rayrl.browser.show(rayrl.browser.view[arguments[0]])", i)
        page.wait("return document.querySelector('#detail .text') !== null")
    assert page.js("return window.hacked ?? null") is None
    assert page.js("return document.querySelectorAll('img, main a[href^=java]').length") == 0
    assert page.js("return [...document.querySelectorAll('b')].every(b => b.textContent !== 'bold')")
    assert "<script>window.hacked=1</script>" in page.js("return document.body.innerText")
    assert "<b>bold</b> &amp; {{7*7}}" in page.js("return document.getElementById('detail').innerText")
    assert page.complaints() == []


def test_runs_that_differ_in_the_seed_are_one_line_with_its_spread(page, tmp_path):
    runs = [made_up_run(tmp_path / f"seed{i}", seed=i, steps=20) for i in range(3)]
    page.open(write(runs, tmp_path / "report.html"))
    assert page.complaints() == []
    name_figure(page, "Reward", "reward")
    pixels(page, "#reward", (0, 0, 0))
    fills = page.js("return document.querySelector('#reward .plot').data.map(t => t.fill || '')")
    assert fills.count("tonexty") == 1 and len(fills) == 3
    page.set("run", "seed1")
    assert page.shown() == 20 * 16


def test_episodes_of_an_agent_are_played_frame_by_frame(page, tmp_path):
    run = add_fragments(made_up_run(tmp_path / "run"), text=HOSTILE)
    page.open(write([run], tmp_path / "report.html"), width=1280)
    read = lambda selector: page.js("return document.querySelector(arguments[0]).textContent", selector)
    page.js("document.querySelector('#episodes .player').scrollIntoView()")
    assert read("#episodes option") == "step 1: trained on, environment 0"
    assert read(".screen").split("\n")[5][1] == "@" and read(".said-now") == "(silence)"
    page.js("const s = document.querySelector('#episodes input'); s.value = 9; s.dispatchEvent(new Event('input'))")
    assert read(".screen").split("\n")[5][10] == "@" and read(".said-now").startswith("You see here 2 gold pieces. </script><script>")
    facts = page.js("return document.querySelector('#episodes .facts-line').innerText")
    assert "extrinsic +1" in facts.replace("\n", " ") and "intrinsic" in facts
    page.js("document.querySelector('#episodes .zoom button').click()")
    page.wait("return document.querySelector('#episodes input').value === '15'")
    page.wait("return document.querySelector('#episodes .zoom button').innerText === 'play'")
    assert "the episode ended here" in page.js("return document.querySelector('#episodes .facts-line').innerText")
    assert page.js("return window.hacked ?? null") is None and page.complaints() == []


def test_a_watched_episode_shows_the_whole_terminal_and_obeys_the_keyboard(page, tmp_path):
    run = add_episode(add_fragments(made_up_run(tmp_path / "run")))
    for width in (400, 1280):
        page.open(write([run], tmp_path / "report.html"), width=width)
        assert page.js("return document.documentElement.scrollWidth") == width
    read = lambda: page.js("return document.querySelector('#episodes .screen').textContent.split('\\n')")
    assert len(read()[0]) == 80 and read()[12][40] == "@" and read()[23].startswith("T:00")
    page.js("document.querySelector('#episodes .player').focus()")
    page.press("\ue014")  # right
    assert read()[12][41] == "@" and read()[12][40] == " "
    page.press("\ue010")  # end
    assert read()[23].startswith("T:29") and "intrinsic +0.5" in page.js("return document.querySelector('#episodes .facts-line').innerText")
    assert page.js("return document.querySelector('.message.now').innerText").startswith("29")
    page.press("\ue012")  # left
    assert read()[23].startswith("T:28") and page.complaints() == []


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """10^5 trajectories behind the server."""
    run = made_up_run(tmp_path_factory.mktemp("many") / "run", steps=100, groups=125, samples=8)
    server = start(run)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def test_a_hundred_thousand_trajectories_answer_within_a_fifth_of_a_second(page, many):
    page.open(many)
    assert page.shown() == 100_000 and page.complaints() == []
    slowest = {}
    filters = {"task": "sums", "low": "0.5", "step-low": "40", "finish": "stop", "status": "trained on", "sort": "length ↓"}
    for name, value in filters.items():
        page.set(name, value)
        slowest[name] = page.js("return rayrl.browser.took")
    assert max(slowest.values()) < 200, slowest
    assert 0 < page.shown() < 100_000
    page.js("document.querySelector(`#filters [name='clear']`).click()")
    page.set("text", "answer 77-")
    page.wait("return rayrl.browser.view.length === 800")
    page.js("rayrl.browser.list.scrollTop = 1e9; rayrl.browser.show(rayrl.browser.view[400])")
    page.wait("return rayrl.browser.current?.text.startsWith('answer 77-')")
    assert page.js("return document.querySelectorAll('.row').length") < 60
