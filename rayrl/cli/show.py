"""Terminal output of the commands: tables that are readable on a terminal, in a pipe and in a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rayrl import study as studies
from rayrl.algorithms.registry import AGGREGATORS, PARTS, PRESETS
from rayrl.catalogue import NOT_YET, PARTLY, WORKS, Paper
from rayrl.check import MISSING, NOTE, Report
from rayrl.config.fields import shown
from rayrl.config.fitting import Fit, Node, amounts
from rayrl.config.layers import find_recipe, read_layer, recipe_names
from rayrl.config.loading import DEFAULT, Loaded
from rayrl.config.placement import RoleResources
from rayrl.outcomes import checked
from rayrl.plan import Plan, gib
from rayrl.telemetry.events import RUNNING

PIPED_WIDTH = 140
_MARKS = {NOTE: "[yellow]note[/]", MISSING: "[bold red]missing[/]"}


def plan(made: Plan) -> None:
    """Header, roles, step arithmetic, then what is worth knowing and what cannot work."""
    console = terminal()
    resources = made.resources
    where = "declared by placement.*" if resources.declared else "this machine"
    console.print(f"[bold]{escape(made.recipe)}[/]")
    console.print(
        f"  mode    {made.mode}: {_plural(resources.nodes, 'node')}, {_plural(resources.cpus, 'core')}, "
        f"{_plural(resources.gpus, 'GPU')} ({where})"
    )
    console.print(f"  engine  {made.engine}: {escape(made.engine_reason)}")

    roles = grid("role", ">actors", ">cores each", ">GPUs each", ">threads", "pinned to", "memory each, at least")
    for role in made.roles:
        memory = made.memory.get(role.name, {})
        parts = f"{gib(sum(memory.values()))}: " + ", ".join(f"{k} {gib(v)}" for k, v in memory.items()) if memory else "—"
        extra = f" + {_plural(role.processes, 'process')}" if role.processes else ""
        roles.add_row(role.name, str(role.count), _amount(role.cpus), _amount(role.gpus), f"{role.threads}{extra}", _pins(role), parts)
    console.print(roles)

    arithmetic = grid("one learner step", ">")
    for name, value in made.batch.items():
        arithmetic.add_row(name, f"{value:,}")
    console.print(arithmetic)
    for note in made.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    for problem in made.problems:
        console.print(f"[bold red]problem:[/] {escape(problem)}")
    if not made.problems:
        console.print("[green]nothing speaks against it[/]")


def fits(names: Sequence[str], found: Sequence[Fit], nodes: Sequence[Node], problems: Sequence[str]) -> None:
    """Each bundle against each node: a place, or what is in the way."""
    console = terminal()
    table = grid("bundle", "asks for", *(n.address for n in nodes))
    table.add_row("[dim]free[/]", "", *(f"[dim]{escape(amounts(n.free))}[/]" for n in nodes))
    for name, one in zip(names, found, strict=True):
        cells = [("[bold green]here[/]" if n.address == one.place else escape(one.obstacles[n.address]) or "fits") for n in nodes]
        table.add_row(escape(name), escape(amounts(one.bundle)), *cells)
    console.print(table)
    for problem in problems:
        console.print(f"[bold red]problem:[/] {escape(problem)}")
    if not problems:
        console.print("[green]every bundle has a place[/]")


def origins(loaded: Loaded) -> None:
    """Every setting that a file or the command line gives, and where."""
    from omegaconf import OmegaConf

    tree = OmegaConf.create(loaded.yaml)
    table = grid("setting", "value", "set in")
    for key, origin in loaded.origins.items():
        if origin != DEFAULT:
            table.add_row(key, escape(shown(OmegaConf.select(tree, key))), escape(origin))
    terminal().print(table)


def report(found: Report) -> None:
    """One line per finding, remedies below."""
    console = terminal()
    table = grid("", "", "")
    table.show_header = False
    for finding in found.findings:
        table.add_row(finding.topic, _MARKS.get(finding.state, "[green]ok[/]"), escape(finding.value))
    console.print(table)
    for finding in found.findings:
        if finding.remedy:
            console.print(f"{_MARKS.get(finding.state, '')} {finding.topic}: {escape(finding.remedy)}")
    if found.can_train:
        console.print(f"[green]ready:[/] generation with {found.engine}, learning with {found.learner}")
    else:
        console.print("[bold red]training cannot run here:[/] see what is missing above")


def runs(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per run (`telemetry.events.find_runs`)."""
    console = terminal()
    if not rows:
        console.print("no run is running here")
        return
    table = grid("run", ">step", "state", "process", "last sign of life", "folder")
    for row in rows:
        state = str(row.get("state")) if row["alive"] or row.get("state") not in RUNNING else "[bold red]dead[/]"
        where = escape(f"{row.get('pid')} on {row.get('host')}")
        progress = f"{row.get('step')}/{row.get('target')}"
        table.add_row(escape(str(row.get("run"))), progress, state, where, f"{row['age_s']:.0f} s ago", escape(row["folder"]))
    console.print(table)


def jobs(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per job of a cluster (`runtime.live.jobs`)."""
    console = terminal()
    if not rows:
        console.print("no job is running there")
        return
    table = grid("job", "state", "started", "command")
    for row in rows:
        table.add_row(row["job"], row["state"], f"{row['age_s']:.0f} s ago", escape(row["command"]))
    console.print(table)


def method_rows() -> list[dict[str, Any]]:
    """The presets of ``algorithm.name`` as plain rows."""
    named = {recipe: str((read_layer(find_recipe(recipe)).data.get("algorithm") or {}).get("name")) for recipe in recipe_names()}
    return [
        {
            "name": name,
            "title": preset.title,
            "arxiv": preset.arxiv,
            "advantage": preset.advantage,
            "loss": preset.loss,
            "reduction": preset.reduction,
            "filter": preset.filter,
            "shaping": preset.shaping,
            "steps": preset.steps,
            "pairs": preset.pairs,
            "critic": preset.needs_critic,
            "recipe": min(((name not in r, len(r), r) for r, n in named.items() if n == name), default=(True, 0, None))[2],
        }
        for name, preset in PRESETS.items()
    ]


def methods(rows: Sequence[Mapping[str, Any]]) -> None:
    table = grid("algorithm.name", "advantage", "loss", "pairs", "reduction", "filter", "critic", "arXiv", "recipe")
    for r in rows:
        critic = "yes" if r["critic"] else "no"
        columns = (
            r["name"],
            r["advantage"],
            r["loss"],
            r["pairs"] or "—",
            r["reduction"],
            r["filter"],
            critic,
            r["arxiv"],
            r["recipe"] or "—",
        )
        table.add_row(*columns)
    terminal().print(table)


def papers(found: Sequence[Paper]) -> None:
    """One line per paper of the catalogue."""
    colours = {WORKS: "green", PARTLY: "yellow", NOT_YET: "dim"}
    table = grid(">", "paper", "room", "status", "recipe", "measured")
    for p in found:
        status = f"[{colours[p.status]}]{p.status}[/]"
        table.add_row(str(p.number), escape(p.title), p.room, status, ", ".join(p.recipes) or "—", escape(_outcome(p)) or "—")
    terminal().print(table)
    counts = ", ".join(f"{sum(p.status == s for p in found)} {s}" for s in (WORKS, PARTLY, NOT_YET))
    terminal().print(f"{len(found)} papers: {counts}. `rayrl methods --paper N` says more of one.")


def paper(p: Paper) -> None:
    """All that the catalogue knows of one paper."""
    console = terminal()
    console.print(f"[bold]{p.number:02d} {escape(p.title)}[/]" + (f" (arXiv {p.arxiv})" if p.arxiv else ""))
    console.print(f"  room      {p.room}\n  status    {p.status}" + (f": {escape(p.why)}" if p.why else ""))
    for recipe in p.recipes:
        console.print(f"  recipe    {recipe}: rayrl train {recipe}")
    if p.test:
        console.print(f"  test      {p.test}")
    lines = [*([p.measured] if p.measured else []), *(c.sentence() for c in checked(p.number))]
    for line in lines or ["nothing yet"]:
        console.print(f"  measured  {escape(line)}")


def _outcome(p: Paper) -> str:
    """What was measured, in short."""
    found = checked(p.number)
    on_text = f"on a tiny language model {sum(c.holds for c in found)} of {len(found)} claims hold" if found else ""
    return "; ".join(part for part in (p.measured, on_text) if part)


def knobs() -> None:
    """Every part of an algorithm with its knobs: what ``algorithm.args`` and ``rewards.aggregate_args`` take."""
    table = grid("part", "name", "knob", ">default", "what turning it changes")
    for part, entries in (PARTS | {"aggregate": AGGREGATORS}).items():
        for name, entry in entries.items():
            for knob, spec in entry.knobs.items():
                options = f" ({', '.join(spec.choices)})" if spec.choices else ""
                table.add_row(part, name, knob, shown(spec.default), escape(spec.doc + options))
    terminal().print(table)


def comparison(rows: Sequence[Any]) -> None:
    """One line per recipe: true accuracy before and after, the reward that was trained on, what it cost."""
    names = list(dict.fromkeys(name for r in rows for name in r.rewards))
    table = grid("recipe", ">runs", ">before", ">after", ">± std", ">reward", *(f">{n}" for n in names), ">tokens", ">seconds")
    for r in rows:
        runs = f"{r.runs}" + (f" ({r.failed} failed)" if r.failed else "")
        parts = [f"{r.rewards[n]:.3f}" if n in r.rewards else "—" for n in names]
        numbers = (f"{r.before:.1%}", f"{r.after:.1%}", f"{r.spread:.1%}", f"{r.reward:.3f}")
        table.add_row(r.recipe, runs, *numbers, *parts, f"{r.tokens:,.0f}", f"{r.wall_s:.0f}")
    terminal().print(table)


def study(cells: Sequence[Any]) -> None:
    """One line per cell: what the start could do, what came of it, and how far it is ahead of what it is held against."""
    diagnostics = [name for name in ("heterogeneity", "anti_concentration") if any(name in c.row.exams[0] for c in cells)]
    axes, ks = list(cells[0].place), sorted({k for c in cells for k in c.pass_at})[-1:]
    start = [f">start pass@{k}" for k in ks] + ["start"] + [f">{name.replace('_', ' ')}" for name in diagnostics]
    table = grid(*axes, *start, ">before", ">after", ">± std", ">ahead", ">labels", ">tokens", ">runs")
    for c in cells:
        known = [f"{c.pass_at.get(k, float('nan')):.1%}" for k in ks] + [c.label]
        known += [f"{c.row.exams[0].get(name, float('nan')):.2f}" for name in diagnostics]
        runs = f"{c.row.runs}" + (f" ({c.row.failed} failed)" if c.row.failed else "")
        spent = (f"{c.row.labels:,.0f}", f"{c.row.tokens:,.0f}" + ("*" if c.uneven > studies.UNEVEN else ""))
        ended = (f"{c.row.before:.1%}", f"{c.row.after:.1%}", f"{c.row.spread:.1%}", studies.summary(c.ahead))
        table.add_row(*c.place.values(), *known, *ended, *spent, runs)
    terminal().print(table)
    if any(c.uneven > studies.UNEVEN for c in cells):
        terminal().print(f"* tokens or labels differ by more than {studies.UNEVEN:.0%} from the cell it is held against")


def label_economy(rows: Sequence[Any]) -> None:
    """One line per recipe and label budget: what the judge was asked, what came of it, what it cost."""
    table = grid("recipe", ">budget", ">runs", ">labels", "measure", ">before", ">after", ">± std", ">gain / 100", ">judge tokens", ">USD")
    for r in rows:
        per = f"{100 * r.gain / r.labels:+.3f}" if r.labels else "—"
        budget = "none" if r.budget is None else f"{r.budget:,}"
        numbers = (f"{r.before:.3f}", f"{r.after:.3f}", f"{r.spread:.3f}", per, f"{r.tokens:,.0f}", f"{r.cost_usd:.2f}")
        table.add_row(r.name, budget, f"{r.runs}", f"{r.labels:,.0f}", r.measure.removeprefix("eval/"), *numbers)
    terminal().print(table)


def evaluation(result: Mapping[str, Any], samples: int) -> None:
    """Accuracy in all and by task, then the first samples as they were written."""
    console = terminal()
    console.print(f"[bold]accuracy {result['accuracy']:.1%}[/] on {result['count']} samples, {result['mean_tokens']:.1f} tokens on average")
    for task, accuracy in result["by_task"].items():
        console.print(f"  {escape(task)}: {accuracy:.1%}")
    if result["failed"]:
        console.print(f"[yellow]{result['failed']} scores failed and count as wrong[/]")
    for sample in result["samples"][:samples]:
        mark = "[green]right[/]" if sample["correct"] else "[red]wrong[/]"
        console.print(
            f"{mark} {escape(repr(sample['prompt']))} → {escape(repr(sample['completion']))} (truth {escape(str(sample['ground_truth']))})"
        )


def terminal() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def grid(*columns: str) -> Table:
    """Columns by heading; a leading ``>`` aligns to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def _amount(value: float) -> str:
    return f"{value:g}" if value else "—"


def _pins(role: RoleResources) -> str:
    pins = sorted(set(role.cores))
    return " | ".join(",".join(map(str, cores)) for cores in pins) or "—"


def _plural(count: float, noun: str) -> str:
    return f"{count:g} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")
