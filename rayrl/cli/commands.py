"""What each command does. Whatever is heavy is imported inside the function that needs it."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayrl.errors import ConfigError, EnvironmentMissing, PlacementError

if TYPE_CHECKING:
    from rayrl.compare import Series
    from rayrl.config.loading import Loaded
    from rayrl.plan import Plan


def train(arguments: Namespace) -> None:
    from rayrl.config.loading import load

    loaded = load(arguments.recipe, arguments.overrides, profile=arguments.profile)
    from rayrl import driver

    _finished(driver.train(loaded))


def resume(arguments: Namespace) -> None:
    from rayrl import driver

    _finished(driver.resume(Path(arguments.run_dir), arguments.overrides))


def plan(arguments: Namespace) -> int:
    """Exits with 2, as a `ConfigError` does, when something cannot work."""
    from rayrl.cli import show
    from rayrl.config import fields

    if arguments.explain:
        print(fields.overview() if arguments.explain == "." else fields.explain(arguments.explain))
        return 0
    if arguments.recipe is None:
        arguments.parser.error("give a RECIPE, or --explain KEY")
    from rayrl.config.loading import load
    from rayrl.plan import make_plan

    loaded = load(arguments.recipe, arguments.overrides, profile=arguments.profile, check=False)
    if arguments.simulate or arguments.recorded:
        return _simulate(arguments, loaded)
    made = make_plan(loaded)
    if arguments.live:
        return _against_live_nodes(arguments, loaded, made)
    if arguments.json:
        print(json.dumps(made.to_json(), indent=1))
    else:
        show.plan(made)
        if arguments.origins:
            show.origins(loaded)
    return ConfigError.exit_code if made.problems else 0


def _against_live_nodes(arguments: Namespace, loaded: Loaded, made: Plan) -> int:
    """Exits with 6, as a `PlacementError` does, when a bundle finds no place."""
    from rayrl.cli import show
    from rayrl.config.fitting import fit, misfits
    from rayrl.config.placement import bundles
    from rayrl.plan import bundle_names
    from rayrl.runtime.live import live_nodes

    nodes, names = live_nodes(loaded.config.placement), bundle_names(made)
    fits = fit(bundles(made.roles, loaded.config.placement.node_groups), nodes)
    problems = misfits(names, fits)
    if arguments.json:
        rows = [
            {"who": name, "bundle": dict(f.bundle), "place": f.place, "obstacles": dict(f.obstacles)}
            for name, f in zip(names, fits, strict=True)
        ]
        print(json.dumps({"bundles": rows, "problems": problems}, indent=1))
    else:
        show.fits(names, fits, nodes, problems)
    return PlacementError.exit_code if problems else 0


def _simulate(arguments: Namespace, loaded: Loaded) -> int:
    from rayrl.cli import show_simulation
    from rayrl.simulation import prediction

    predicted = prediction.predict(loaded.config, arguments.recorded)
    if arguments.json:
        print(json.dumps(predicted.to_json(), indent=1))
    else:
        show_simulation.prediction(predicted)
    if arguments.sweep:
        cells = prediction.over_sizes(loaded.config, predicted.scenario)
        show_simulation.sweep(cells)
        if arguments.picture:
            Path(arguments.picture).write_text(prediction.picture(cells, loaded.recipe), encoding="utf-8")
    return 0


def check(arguments: Namespace) -> int:
    """Exits with 5, as an `EnvironmentMissing` does, when training cannot run here."""
    from rayrl.check import check as inspect
    from rayrl.cli import show

    report = inspect(deep=arguments.deep)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        show.report(report)
    return 0 if report.can_train else EnvironmentMissing.exit_code


def evaluate(arguments: Namespace) -> None:
    from rayrl.config.loading import load

    loaded = load(arguments.recipe, arguments.overrides, profile=arguments.profile)
    from rayrl.evaluate import evaluate_checkpoint

    result = evaluate_checkpoint(loaded, Path(arguments.checkpoint)).to_json()
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        from rayrl.cli import show

        show.evaluation(result, loaded.config.telemetry.print_samples)


def rank(arguments: Namespace) -> None:
    from rayrl.config.loading import load
    from rayrl.ranking import rank as measure

    loaded = load(arguments.recipe, arguments.overrides, profile=arguments.profile)
    found = measure(loaded, arguments.checkpoint, beams=arguments.beams, k=arguments.at)
    print(json.dumps(found, indent=1) if arguments.json else "\n".join(f"{name:15} {value:.4g}" for name, value in found.items()))


def export(arguments: Namespace) -> None:
    from rayrl.checkpoint import export as write

    print(write(Path(arguments.run_dir), Path(arguments.out)))


def methods(arguments: Namespace) -> None:
    """Raises `ConfigError` for a paper that is not on the list."""
    from dataclasses import asdict

    from rayrl.catalogue import PAPERS
    from rayrl.cli import show

    wanted = [p for p in PAPERS if arguments.paper in (None, p.number)]
    if not wanted:
        raise ConfigError(f"there is no paper {arguments.paper}", f"the list goes from 1 to {len(PAPERS)}: `rayrl methods`")
    if arguments.json:
        algorithms = show.method_rows() if arguments.paper is None else []
        print(json.dumps({"algorithms": algorithms, "papers": [asdict(p) for p in wanted]}, indent=1))
    elif arguments.paper is not None:
        show.paper(wanted[0])
    elif arguments.knobs:
        show.knobs()
    else:
        show.methods(show.method_rows())
        show.papers(wanted)


def report(arguments: Namespace) -> None:
    from rayrl.report.page import write
    from rayrl.run_folder import RunFolder

    out = Path(arguments.out) if arguments.out else RunFolder(Path(arguments.run_dirs[0])).report
    print(write(arguments.run_dirs, out))


def view(arguments: Namespace) -> None:
    from rayrl.report.server import serve

    serve(Path(arguments.run_dir), arguments.port, ready=lambda url: print(f"{url}  (Ctrl-C ends it)", flush=True))


def watch(arguments: Namespace) -> int:
    """Exits with 0 when the run reached its target or goes on, else as that run did."""
    from rayrl.watch import watch as follow
    from rayrl.watch import watch_job

    address = arguments.address or os.environ.get("RAY_API_SERVER_ADDRESS", "")
    if address and not Path(arguments.run_dir).exists():
        return watch_job(arguments.run_dir, address, once=arguments.once)
    return follow(Path(arguments.run_dir), once=arguments.once)


def ps(arguments: Namespace) -> None:
    from rayrl.cli import show
    from rayrl.telemetry.events import find_runs

    if arguments.address:
        from rayrl.runtime.live import jobs

        found, table = jobs(arguments.address), show.jobs
    else:
        found, table = find_runs(arguments.folders), show.runs
    rows = [row for row in found if row["alive"] or arguments.all]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        table(rows)


def compare(arguments: Namespace) -> int:
    """Exits with 12, as a run that missed its target does, when any run failed."""
    from rayrl import compare as comparison
    from rayrl.cli import show

    settings = [word for word in arguments.recipes if "=" in word]
    series = _series(arguments, [*settings, *arguments.overrides])
    arms = [comparison.Arm(word, word) for word in arguments.recipes if "=" not in word]
    rows = comparison.compare(arms, series, tokens=arguments.tokens)
    return _told(arguments, rows, show.comparison, series.out / comparison.PICTURE, any(row.failed for row in rows))


def study(arguments: Namespace) -> int:
    """Exits with 12, as a run that missed its target does, when any run failed."""
    from rayrl import study as studies
    from rayrl.cli import show

    only = {axis: options.split(",") for axis, _, options in (word.partition("=") for word in arguments.only)}
    asked = studies.narrowed(studies.find(arguments.study), only)
    cells = studies.run(asked, _series(arguments, arguments.overrides), tokens=arguments.tokens)
    return _told(arguments, cells, show.study, None, any(cell.row.failed for cell in cells))


def labels(arguments: Namespace) -> int:
    """Exits with 12, as a run that missed its target does, when any run failed."""
    from rayrl import economy
    from rayrl.cli import show

    settings = [word for word in arguments.what if "=" in word]
    names = [word for word in arguments.what if "=" not in word]
    settings += arguments.overrides
    series = _series(arguments, settings)
    folders, failed = [Path(name) for name in names if Path(name).is_dir()], 0
    if not folders:
        if len(names) != 1:
            raise ConfigError(f"neither run folders nor one recipe: {' '.join(arguments.what)}", "name finished runs, or a single recipe")
        folders, failed = economy.sweep(names[0], arguments.budgets, series)
    elif len(folders) < len(names) or settings:
        strange = [name for name in arguments.what if not Path(name).is_dir()]
        raise ConfigError(f"{' '.join(strange)}: no run folder", "name run folders alone, or one recipe with its settings")
    rows = economy.report(folders, series.out, series.say) if folders else []
    return _told(arguments, rows, show.label_economy, series.out / economy.PICTURE, failed > 0)


def _series(arguments: Namespace, overrides: Sequence[str]) -> Series:
    from rayrl.compare import Series

    say = (lambda text: None) if arguments.json else lambda text: print(text, flush=True)
    return Series(arguments.seeds, Path(arguments.out), overrides, arguments.profile, arguments.limit_s, say)


def _told(arguments: Namespace, rows: Sequence[Any], table: Callable[[Any], None], picture: Path | None, failed: bool) -> int:
    """Rows as JSON or as a table; the exit status."""
    from dataclasses import asdict

    from rayrl.errors import TargetNotReached

    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    elif rows:
        table(rows)
        if picture is not None:
            print(f"picture: {picture}")
    return TargetNotReached.exit_code if failed else 0


def warmstart(arguments: Namespace) -> None:
    """The problems it is taught on are those of the training split, so that held-out ones stay unseen."""
    from rayrl.config.loading import load
    from rayrl.data.sources import load_rows

    config = load(arguments.recipe, check=False).config
    problems = [(str(row.prompt), row.answer) for row in load_rows(config.data, "train")]
    from rayrl.models.warmstart import build

    print(build(arguments.out or config.model.path, problems, seed=arguments.seed))


def train_reward_model(arguments: Namespace) -> None:
    from rayrl.config.schema import RewardModelConfig
    from rayrl.reward_models.offline import train as fit

    settings = RewardModelConfig(
        network=arguments.network,
        path=arguments.model,
        lr=arguments.lr,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        heads=arguments.heads,
        class_balance=arguments.class_balance,
        validation_share=arguments.validation_share,
    )
    report = (lambda line: None) if arguments.json else print
    found = fit(
        arguments.file, Path(arguments.out), settings, epochs=arguments.epochs, seed=arguments.seed, stages=arguments.stages, report=report
    )
    if arguments.json:
        print(json.dumps(found, indent=1))


def _finished(run_dir: Path) -> None:
    print(f"run folder: {run_dir}")
