"""Whatever state a run folder is in, the page shows what there is and says what is not."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import add_fragments, made_up_run

from rayrl.errors import ConfigError
from rayrl.report.bounds import phases
from rayrl.report.details import read_details
from rayrl.report.excerpts import MOST, read_excerpts
from rayrl.report.folder import read_run
from rayrl.report.index import read_index
from rayrl.report.judgements import Judgements
from rayrl.report.page import BUDGET, family, look, render, write
from rayrl.report.rewarders import _paid, rewarders
from rayrl.report.sample import choose
from rayrl.report.timeline import MAX_BARS, timeline

pytest.importorskip("plotly", reason="reports need plotly")


@pytest.fixture
def run(tmp_path):
    return made_up_run(tmp_path / "run")


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    seen = look(tmp_path / "empty")
    assert {"metrics.jsonl is not there", "config.yaml is not there"} <= set(seen.run.missing)
    html = render([seen])
    assert "no trajectories were written" in html and "Too few steps to say" in html


def test_no_folder_at_all_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        look(tmp_path / "missing")


@pytest.mark.parametrize("name", ["config.yaml", "config_origins.json", "metrics.jsonl", "evaluations.jsonl", "spans.json", "status.json"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "gone", "other"])
def test_a_damaged_file_costs_only_what_it_said(run, name, damage):
    path = run / name
    if damage == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes({"cut": data[: len(data) // 2], "garbage": b"\xff\xfe{[:", "other": b"[1, 2"}[damage])
    seen = look(run)
    assert len(render([seen])) > 10_000
    if damage == "gone" and name != "status.json":
        assert f"{name} is not there" in seen.run.missing


def test_a_part_that_is_half_written_is_left_out_and_named(run):
    part = run / "rollouts" / "step-00000003.parquet"
    part.write_bytes(part.read_bytes()[:500])
    seen = look(run)
    assert len(seen.index) == 5 * 16 and any("step-00000003" in line for line in seen.index.missing)
    assert 3 not in set(seen.index.numbers["step"].tolist())
    details = read_details(seen.index, [len(seen.index) - 1], lambda ids: [str(i) for i in ids])
    assert details[len(seen.index) - 1]["step"] == 6
    render([seen])


def test_parts_of_an_older_version_are_shown_without_what_they_lack(run):
    old = ["step", "version", "reward", "kept", "components", "id", "ordinal", "sample", "token_ids", "action_mask", "behavior_logprobs"]
    old += ["version_spans", "turns", "finish_reason", "task", "text", "prompt_text", "ground_truth", "metadata"]
    new = read_index(run / "rollouts")
    for path in (run / "rollouts").glob("*.parquet"):
        pq.write_table(pq.read_table(path).select(old), path)
    index = read_index(run / "rollouts")
    assert any("older version" in line for line in index.missing)
    first = slice(0, 16)  # only the first part's lengths are those of its tokens
    assert index.numbers["length"][first].tolist() == new.numbers["length"][first].tolist()
    assert index.numbers["staleness"][first].tolist() == [0] * 16
    assert "not recorded" in render([look(run)])


def test_old_and_new_parts_go_together(run):
    path = run / "rollouts" / "step-00000002.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["gap", "reason"]), path)
    assert len(read_index(run / "rollouts")) == 96
    render([look(run)])


@pytest.mark.parametrize(("state", "says"), [("running", "still going on"), ("interrupted", "interrupted after"), ("failed", "failed")])
def test_the_state_of_the_run_is_said(tmp_path, state, says):
    run = made_up_run(tmp_path / "run", state=state)
    if state == "failed":
        (run / "crash.json").write_text(json.dumps({"error": "RoleFailed", "message": "it <b>failed</b>", "hint": "", "step": 3}))
    html = render([look(run)])
    assert says in html and "<b>failed</b>" not in html


def test_a_run_killed_in_the_middle_is_not_called_finished(run):
    status = json.loads((run / "status.json").read_text()) | {"state": "running", "host": "elsewhere"}
    (run / "status.json").write_text(json.dumps(status))
    os.utime(run / "status.json", (1, 1))
    assert read_run(run).state == "killed" and "gone without a last word" in render([look(run)])


def test_a_sample_keeps_whole_groups_of_first_and_last_step_within_its_bytes(tmp_path):
    run = made_up_run(tmp_path / "run", steps=40, groups=6)
    index = read_index(run / "rollouts")
    everything = choose(index, BUDGET, lambda rows: read_details(index, rows, lambda ids: [str(i) for i in ids]))
    assert len(everything) == len(index)
    few = choose(index, 9_000, lambda rows: read_details(index, rows, lambda ids: [str(i) for i in ids]))
    assert 0 < len(few) < len(index) / 4
    steps = {index.numbers["step"][row] for row in few}
    assert {1, 40} <= steps
    groups = {(d["step"], d["ordinal"]) for d in few.values()}
    assert len(few) == 4 * len(groups)


def test_rewarders_are_counted_exactly(run):
    index = read_index(run / "rollouts")
    rows, cost = rewarders(index)
    by_name = {row["component"]: row for row in rows}
    assert by_name["correct"]["records"] == 96 and by_name["correct"]["mean"] == pytest.approx(0.5) and by_name["correct"]["failed"] == 0
    assert by_name["style"]["producer"] == "judge" and by_name["style"]["version"] == "v1"
    assert by_name["style"]["cost_usd"] == pytest.approx(0.096) and sum(cost.values()) == pytest.approx(0.096) and len(cost) == 6


def test_an_answer_that_samples_share_is_paid_once():
    records = pa.table({"cost_usd": [0.5, 0.5, 0.25, 0.1, 0.1], "producer_version": ["t/a", "t/a", "t/b", "v1", "v1"]})
    paid = set()
    assert _paid(records, paid).to_pylist() == [0.5, 0.0, 0.25, 0.1, 0.1] and paid == {"t/a", "t/b"}
    assert sum(_paid(records, paid).to_pylist()) == pytest.approx(0.2)  # of a later part of the run


def test_phases_add_up_and_the_longest_comes_first(run):
    found = phases(read_run(run), read_index(run / "rollouts"))
    assert [p.name for p in found][:2] == ["generation and scoring", "learning"]
    assert found[0].share == pytest.approx(0.6) and sum(p.share for p in found) == pytest.approx(1.0)
    assert "Rollouts bound 60 % of the time" in found[0].text and "try" in found[0].text.lower()


def test_idle_time_is_laid_at_the_door_of_who_worked(run):
    line = timeline(read_run(run).spans)
    assert line.busy["rollout-0"] == pytest.approx(0.6, abs=0.02) and line.busy["learner-0"] == pytest.approx(0.35, abs=0.02)
    assert line.waits["rollout-0"]["learner"] == pytest.approx(0.7 / 0.8, abs=0.05)
    assert line.roles == ["driver", "rollout-0", "learner-0"]


def test_a_long_timeline_is_joined_not_cut():
    spans = [{"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "learner-0"}}]
    spans += [{"ph": "X", "name": "step", "pid": 1, "tid": 1, "ts": i * 1e5, "dur": 9e4} for i in range(3 * MAX_BARS)]
    line = timeline(spans)
    assert line.merged and 0 < len(line.bars) <= MAX_BARS
    assert line.bars[-1].end_s == pytest.approx(3 * MAX_BARS * 0.1 - 0.01)


def test_families_differ_in_more_than_seed_name_and_folder(tmp_path):
    runs = [read_run(made_up_run(tmp_path / f"r{i}", seed=i)) for i in range(2)]
    assert family(runs[0]) == family(runs[1])
    runs[1].config["buffer"]["max_staleness"] = 0
    assert family(runs[0]) != family(runs[1])


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [made_up_run(tmp_path / f"r{i}", seed=min(i, 1)) for i in range(3)]
    for run in runs:
        config = json.loads((run / "config.yaml").read_text())
        config["run"]["name"] = "same"
        (run / "config.yaml").write_text(json.dumps(config))
    html = render([look(run) for run in runs])
    assert all(f"<b>same, {own}</b>" in html for own in ("seed 0", "r1", "r2"))


def test_the_page_needs_no_network_and_names_no_address(run, tmp_path):
    html = write([run], tmp_path / "out" / "report.html").read_text()
    own = html[: html.index("<script id=")] + html[html.rindex('"use strict"') :]
    assert "http://" not in own and "https://" not in own and "src=" not in own.replace("window.src=", "")
    assert "default-src 'none'" in own and "connect-src" not in own
    shutil.rmtree(run)  # and nothing of the folder is needed to read it
    assert (tmp_path / "out" / "report.html").stat().st_size < 10e6


def test_what_judges_said_is_shown_and_a_damaged_label_file_is_named(run):
    path = run / "feedback.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE questions (key TEXT)")
        names = "kind, goal, model, context, texts, state, label, error, raw_answers, attempts, tokens, cost_usd"
        db.execute(f"CREATE TABLE annotations (id INTEGER PRIMARY KEY, {names})")
        insert = f"INSERT INTO annotations ({names}) VALUES ({', '.join('?' * 12)})"
        texts, raw = json.dumps(["You <i>see</i> here a key.", "It is dark."]), json.dumps(["<script>alert(1)</script> first"])
        db.execute(insert, ("pair", "win", "some-judge", "", texts, "labelled", "[1.0]", "", raw, 1, 120, 0.002))
        db.execute(insert, ("pair", "win", "some-judge", "", texts, "failed", "[]", "malformed: no word", raw, 3, 99, 0.001))
        db.commit()
    html = render([look(run)])
    assert "some-judge labelled 1 questions; 1 failed (malformed 1)" in html and "219 tokens, $0.0030" in html and "Asked for: win." in html
    assert "You &lt;i&gt;see&lt;/i&gt; here a key." in html and "<script>alert" not in html
    path.write_bytes(b"no database" * 100)
    assert "feedback.sqlite cannot be read" in render([look(run)])


def test_lineage_holds_the_judges_own_words(run):
    """Of a judge's score by the key of its question; of a reward model by what was asked about the same answer to the same prompt."""
    names = "key, kind, model, context, texts, state, label, error, raw_answers, cost_usd"
    with closing(sqlite3.connect(run / "feedback.sqlite")) as db:
        db.execute(f"CREATE TABLE annotations (id INTEGER PRIMARY KEY, {names})")
        insert = f"INSERT INTO annotations ({names}) VALUES ({', '.join('?' * 10)})"
        db.execute(insert, ("abc1" * 8, "score", "m", "", json.dumps(["x"]), "labelled", "[0.5]", "", json.dumps(["half right"]), 0.0))
        for texts, label in [(["mine", "other"], 0.0), (["other", "mine"], 0.0), (["mine", "third"], 0.5), (["x", "y"], 1.0)]:
            key = f"{len(texts[0])}{texts[1]}"
            db.execute(insert, (key, "pair", "m", "p", json.dumps(texts), "labelled", f"[{label}]", "", json.dumps(["a", "b"]), 0.25))
        db.commit()
    said = Judgements(run / "feedback.sqlite")
    scored = {"rewards": [{"component": "graded", "producer_version": "template/abc1abc1"}]}
    said.complete(scored, {"prompt_text": "p", "text": "mine"})
    assert scored["rewards"][0]["answer"] == "half right" and "judged" not in scored
    modelled = {"rewards": [{"component": "preferred", "producer_version": "28"}]}
    said.complete(modelled, {"prompt_text": "p", "text": "mine"})
    verdicts = [(j["verdict"], j["other"]) for j in modelled["judged"]]
    assert verdicts == [("worse than", "other"), ("better than", "other"), ("as good as", "third")]
    assert modelled["judged"][0]["answer"] == "a\n— and —\nb" and modelled["judged"][0]["cost_usd"] == 0.25
    elsewhere = {"rewards": []}
    said.complete(elsewhere, {"prompt_text": "q", "text": "mine"})
    assert elsewhere["judged"] == []
    (run / "feedback.sqlite").write_bytes(b"no database" * 100)
    said.complete(elsewhere, {"prompt_text": "p", "text": "mine"})  # a damaged file adds nothing, and is named elsewhere


def test_excerpts_show_the_screen_the_message_its_label_and_the_rewards_of_each_frame(run):
    add_fragments(run)
    with closing(sqlite3.connect(run / "feedback.sqlite")) as db:
        db.execute("CREATE TABLE annotations (items, label, state, kind)")
        db.execute("INSERT INTO annotations VALUES ('[1002]', '[0.75]', 'labelled', 'score')")
        db.execute("INSERT INTO annotations VALUES ('[1001, 1002]', '[1.0]', 'labelled', 'pair')")
        db.commit()
    excerpts, missing = read_excerpts(run / "fragments", run / "feedback.sqlite")
    assert missing == [] and [(e["step"], e["env"]) for e in excerpts] == [(s, e) for s in (1, 2, 3) for e in (0, 1)]
    first = excerpts[0]
    film = first["screens"]
    lines, colors = film[0][1::3], film[0][2::3]
    assert len(lines) == 12 and lines[5][1] == "@" and lines[3][3] == "$" and lines[0] == "-" * 12
    assert colors[5][1] == "f" and colors[3][3] == "b"
    assert film[9] == [5, "..........@.", film[9][2]] and film[9][2][10] == "f"  # only the line where it walks has changed
    assert first["messages"][9] == "You see here 2 gold pieces. " and first["messages"][8] == ""
    assert first["labels"][9] == 0.75 and first["labels"][5] is None and first["sightings"][9] == 1
    assert first["rewards"][:5] == [0, 0, 0, 0, 1] and first["actions"][9] == 1 and first["ends"] == [15] and excerpts[1]["ends"] == []
    assert first["told"]["intrinsic"][1] == pytest.approx(3 / 47, abs=1e-4)  # frames are time-major


def test_only_so_many_excerpts_are_shown_and_damaged_ones_are_named(run):
    add_fragments(run, steps=MOST + 10)
    (run / "fragments" / "step-00000001.parquet").write_bytes(b"half")
    excerpts, missing = read_excerpts(run / "fragments", run / "feedback.sqlite")
    assert len(excerpts) == 2 * (MOST - 1) and missing == ["fragments/step-00000001.parquet cannot be read (ArrowInvalid)"]
    shutil.rmtree(run / "rollouts")
    assert "no trajectories were written" not in render([look(run)])


def test_the_run_of_an_agent_is_answered_by_its_episodes(run):
    add_fragments(run)
    exams = [
        {"step": s, "mean_return": r, "count": 20, "ends": {"died": 15, "time": 5}, "sums": {}, "samples": [{"seed": 1, "sums": {}}]}
        for s, r in [(0, 0.5), (9, 2.25)]
    ]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(exam) + "\n" for exam in exams))
    (run / "crash.json").write_text(json.dumps({"error": "ConfigError", "message": "of an earlier start", "step": 0}))
    html = render([look(run)])
    assert "of an earlier start" not in html and "The environment (mean 0 a step)." in html
    assert '<section id="trajectories" hidden>' in html
    assert "Mean return of examined episodes 0.5 → 2.25" in html and "examined episodes ended by: died 15, time 5" in html
