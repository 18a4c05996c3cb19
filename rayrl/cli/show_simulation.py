"""Terminal output of `rayrl plan --simulate`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from rayrl.cli.show import grid, terminal
from rayrl.simulation.prediction import Prediction, advice
from rayrl.simulation.sweep import Cell, best


def prediction(predicted: Prediction) -> None:
    """What is predicted, and how well the simulation tells the recorded run itself."""
    out, o = terminal(), predicted.outcome
    out.print(f"[bold]predicted[/] from {escape(predicted.source)}")
    rows = grid("one learner step", ">")
    rows.add_row("step time", f"{o.step_s:.2f} s")
    rows.add_row("action tokens trained on", f"{o.tokens_per_s:,.0f} per second")
    rows.add_row("learner idle", f"{o.learner_idle:.0%}")
    rows.add_row("engines idle", f"{o.engine_idle:.0%}")
    rows.add_row("staleness", f"{o.staleness_mean:.2f} versions on average, at most {o.staleness_max}")
    out.print(rows)
    if predicted.replayed:
        measured, told = predicted.replayed
        out.print(f"  the recorded run itself: {told:.2f} s predicted, {measured:.2f} s measured ({told / measured - 1:+.0%})")


def sweep(cells: Sequence[Cell]) -> None:
    """Throughput per GPU at the best share of engines, by cluster size and staleness bound; then the advice."""
    out = terminal()
    bounds, sizes = sorted({c.bound for c in cells}), sorted({c.gpus for c in cells})
    rows = grid(">GPUs", *(f">staleness {b}" for b in bounds), ">learner idle", ">engines idle")
    for gpus in sizes:
        found = [best(cells, gpus, bound) for bound in bounds]
        top = max(found, key=lambda c: c.per_gpu)
        marks = [f"{c.per_gpu:,.0f} ({c.share:.0%})" for c in found]
        rows.add_row(f"{gpus:,}", *marks, f"{top.outcome.learner_idle:.0%}", f"{top.outcome.engine_idle:.0%}")
    out.print("\n[bold]tokens trained on per second and GPU[/] (share of GPUs that generate); idle shares of the best")
    out.print(rows)
    for line in advice(cells):
        out.print(f"[green]advice:[/] {escape(line)}")
