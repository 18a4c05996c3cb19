"""Every command of `rayrl` and its arguments."""

from __future__ import annotations

import argparse

import rayrl
from rayrl.cli import commands

_OVERRIDES = "overrides of single settings, e.g. run.steps=20 learner.optim.lr=1e-5 (`rayrl plan --explain .` lists all keys)"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rayrl",
        description="Reinforcement learning of language models from rewards, on a laptop or a Ray cluster.",
        epilog="Start here: `rayrl check`, then `rayrl plan arithmetic_grpo`, then `rayrl train arithmetic_grpo`.",
    )
    parser.add_argument("--version", action="version", version=f"rayrl {rayrl.__version__}")
    parser.set_defaults(command=None)
    sub = parser.add_subparsers(title="commands", metavar="COMMAND")
    _train(sub)
    _resume(sub)
    _plan(sub)
    _check(sub)
    _evaluate(sub)
    _rank(sub)
    _export(sub)
    _methods(sub)
    _compare(sub)
    _study(sub)
    _labels(sub)
    _report(sub)
    _view(sub)
    _watch(sub)
    _ps(sub)
    _warmstart(sub)
    _train_rm(sub)
    return parser


def _add(sub: argparse._SubParsersAction, name: str, help: str, description: str) -> argparse.ArgumentParser:
    return sub.add_parser(name, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def _recipe(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    text = "name under conf/recipes, or a YAML file"
    parser.add_argument("recipe", metavar="RECIPE", nargs="?" if optional else None, help=text)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=_OVERRIDES)
    parser.add_argument("--profile", metavar="NAME", help="where it runs: a name under conf/profiles, or a YAML file; wins over the recipe")


def _train(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "train",
        "train a policy",
        "Trains from a recipe up to run.steps and prints the run folder.\nExits non-zero when the run ends before its last step.\n"
        "Ctrl-C drains, saves and stops; `rayrl resume` continues.",
    )
    _recipe(p)
    p.set_defaults(command=commands.train)


def _resume(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "resume",
        "continue an interrupted run",
        "Continues a run from its last commit: nothing is trained twice, nothing is skipped.\n"
        "Overrides are for what does not change the past, e.g. run.steps or checkpoint.every.",
    )
    p.add_argument("run_dir", metavar="RUN_DIR", help="the folder that `rayrl train` printed")
    p.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=_OVERRIDES)
    p.set_defaults(command=commands.resume)


def _plan(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "plan",
        "show what a recipe will do, without starting it",
        "Shows who runs where, how big a step is, which engine is taken and why, and what cannot work.\n"
        "Needs neither a GPU nor Ray nor torch. Exits with 2 when something cannot work.",
    )
    _recipe(p, optional=True)
    p.add_argument("--explain", metavar="KEY", help="say what one setting means (a section lists its settings; `.` lists all), and stop")
    p.add_argument("--origins", action="store_true", help="also list every setting that differs from its default, and where it was set")
    p.add_argument(
        "--live", action="store_true", help="hold each bundle against each node of a running cluster; exits with 6 when one fits nowhere"
    )
    p.add_argument(
        "--simulate", action="store_true", help="predict step time, idle shares and staleness: from --from, else from a data sheet"
    )
    p.add_argument("--from", dest="recorded", metavar="RUN_DIR", help="a recorded run to take the speeds from (implies --simulate)")
    p.add_argument(
        "--sweep", action="store_true", help="with --simulate: 8 to 4,096 GPUs, staleness bounds and shares of engines, and advice"
    )
    p.add_argument("--picture", metavar="FILE.svg", help="with --sweep: also draw it")
    p.add_argument("--json", action="store_true", help="print the plan as JSON")
    p.set_defaults(command=commands.plan, parser=p)


def _check(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "check",
        "say what this machine can run and what is missing",
        "Looks at processor, memory, GPUs, packages and tools. Exits with 5 when training cannot run here.",
    )
    p.add_argument("--deep", action="store_true", help="really import the heavy packages (about half a minute)")
    p.add_argument("--json", action="store_true", help="print the report as JSON")
    p.set_defaults(command=commands.check)


def _evaluate(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "eval",
        "evaluate a checkpoint on held-out prompts",
        "Samples the recipe's held-out prompts from a checkpoint and prints the share that is correct (evaluation.*).",
    )
    _recipe(p)
    p.add_argument("--checkpoint", metavar="FOLDER", required=True, help="a Hugging Face checkpoint, e.g. RUN_DIR/policy")
    p.add_argument("--json", action="store_true", help="print the metrics as JSON")
    p.set_defaults(command=commands.evaluate)


def _rank(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "rank",
        "measure a checkpoint that retrieves",
        "Ranks the identifiers that a recipe's rows name (task:retrieval, task:documents) for every held-out query, by beams that can\n"
        "only write identifiers that exist, and prints MRR, recall, hit rate and nDCG.",
    )
    _recipe(p)
    p.add_argument("--checkpoint", metavar="FOLDER", required=True, help="a Hugging Face checkpoint, e.g. RUN_DIR/policy")
    p.add_argument("--beams", type=_count, default=50, help="identifiers ranked per query (default: %(default)s)")
    p.add_argument("--at", type=_count, default=10, metavar="K", help="how far down the ranking is looked at (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print the measures as JSON")
    p.set_defaults(command=commands.rank)


def _export(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "export",
        "write a run's policy as a Hugging Face checkpoint",
        "Writes the policy of a run's last commit as a Hugging Face checkpoint.",
    )
    p.add_argument("run_dir", metavar="RUN_DIR", help="the folder that `rayrl train` printed")
    p.add_argument("--out", metavar="FOLDER", required=True, help="where to write it")
    p.set_defaults(command=commands.export)


def _methods(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "methods",
        "list the algorithms and the papers behind them",
        "Lists every preset of algorithm.name with what it consists of and its recipe, then every paper on the list with its status.",
    )
    p.add_argument("--paper", type=int, metavar="N", help="all that is known of one paper")
    p.add_argument("--knobs", action="store_true", help="list every knob of algorithm.args and rewards.aggregate_args instead")
    p.add_argument("--json", action="store_true", help="print the tables as JSON")
    p.set_defaults(command=commands.methods)


def _report(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "report",
        "write a run as one page to look at",
        "Writes one HTML file that needs no network: did it learn, what did it write, who rewarded it, what bounds it, did anything fail.\n"
        "Several runs are laid over each other; those that differ in the seed alone become one line with its spread.",
    )
    p.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", help="a folder that `rayrl train` printed")
    p.add_argument("--out", metavar="FILE", help="where to write it (default: report.html in the first folder)")
    p.set_defaults(command=commands.report)


def _view(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "view",
        "browse all trajectories of a run",
        "Serves the run's page with every trajectory, on this machine alone, until Ctrl-C.",
    )
    p.add_argument("run_dir", metavar="RUN_DIR", help="the folder that `rayrl train` printed")
    p.add_argument("--port", type=int, default=0, help="port to listen on (default: any that is free)")
    p.set_defaults(command=commands.view)


def _watch(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "watch",
        "follow a run",
        "Prints the lines that training prints, from the beginning, and goes on until the run ends.",
    )
    p.add_argument("run_dir", metavar="RUN", help="a run folder, also one that another machine writes, or the id of a job on a cluster")
    p.add_argument("--address", default="", help="job server of that cluster (default: RAY_API_SERVER_ADDRESS)")
    p.add_argument("--once", action="store_true", help="print what is there, and stop")
    p.set_defaults(command=commands.watch)


def _ps(sub: argparse._SubParsersAction) -> None:
    p = _add(sub, "ps", "list running runs", "Lists the runs that somebody runs right now; runs whose process is gone are told apart.")
    p.add_argument("--address", default="", help="job server of a cluster, e.g. http://127.0.0.1:8265: lists its jobs instead")
    p.add_argument("folders", metavar="FOLDER", nargs="*", default=["runs"], help="folders with run folders in them (default: runs)")
    p.add_argument("--all", action="store_true", help="also those that have ended")
    p.add_argument("--json", action="store_true", help="print the list as JSON")
    p.set_defaults(command=commands.ps)


def _compare(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "compare",
        "run recipes under one token budget and compare them",
        "Trains every RECIPE with every seed until the same number of tokens is sampled, one run after the other, and ends in a table\n"
        "and a picture (OUT/comparison.json, OUT/comparison.png). Finished runs in OUT are not repeated.",
    )
    p.add_argument("recipes", metavar="RECIPE", nargs="+", help="names under conf/recipes, or YAML files; KEY=VALUE settings apply to all")
    p.add_argument("--seeds", type=int, default=3, metavar="N", help="runs per recipe, with seeds 0 to N-1 (default: %(default)s)")
    p.add_argument("--tokens", type=int, default=300_000, metavar="N", help="tokens sampled by each run (default: %(default)s)")
    p.add_argument("--out", metavar="FOLDER", default="runs/compare", help="where runs and results go (default: %(default)s)")
    p.add_argument("--profile", metavar="NAME", help="where it runs: a name under conf/profiles; wins over the recipes")
    p.add_argument("--limit-s", type=float, default=7200.0, metavar="S", help="longest that one run may take (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print the table as JSON")
    p.set_defaults(command=commands.compare, overrides=[])


def _study(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "study",
        "run one recipe under every combination of a study's axes",
        "Trains every cell of a study (conf/studies) with every seed under one token budget and ends in one table: what the starting\n"
        "policy could do (pass@k, alignment, heterogeneity), what each cell ended with, and how far it is ahead of the cell that it\n"
        "is held against. Finished runs in OUT are not repeated.",
    )
    p.add_argument("study", metavar="STUDY", help="a name under conf/studies (alignment, verifier), or a YAML file")
    p.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=_OVERRIDES + "; they apply to all runs")
    p.add_argument("--only", metavar="AXIS=A,B", nargs="+", default=[], help="only these options of an axis, e.g. reward=truth,random")
    p.add_argument("--seeds", type=_count, default=3, metavar="N", help="runs per cell, with seeds 0 to N-1 (default: %(default)s)")
    p.add_argument("--tokens", type=_count, default=60_000, metavar="N", help="tokens sampled by each run (default: %(default)s)")
    p.add_argument("--out", metavar="FOLDER", default="runs/study", help="where runs and results go (default: %(default)s)")
    p.add_argument("--profile", metavar="NAME", help="where it runs: in_process suits tiny models")
    p.add_argument("--limit-s", type=_positive, default=7200.0, metavar="S", help="longest that one run may take (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print the cells as JSON")
    p.set_defaults(command=commands.study)


def _labels(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "labels",
        "say what labels are worth: accuracy or return against their number",
        "Reads finished runs (RUN_DIR …), or trains a RECIPE under several label budgets and reads those runs, and ends in a table and a\n"
        "picture (OUT/labels.json, OUT/labels.png). Finished runs in OUT are not repeated. Agents and language models alike.",
    )
    p.add_argument("what", metavar="RUN_DIR|RECIPE", nargs="+", help="run folders, or one recipe with KEY=VALUE settings")
    p.add_argument(
        "--budgets",
        type=_count,
        nargs="+",
        default=[100, 300, 1000, 3000],
        metavar="N",
        help="labels of each run (default: 100 300 1000 3000)",
    )
    p.add_argument("--seeds", type=_count, default=3, metavar="N", help="runs per budget, with seeds 0 to N-1 (default: %(default)s)")
    p.add_argument("--out", metavar="FOLDER", default="runs/labels", help="where runs and results go (default: %(default)s)")
    p.add_argument("--profile", metavar="NAME", help="where it runs: a name under conf/profiles; wins over the recipe")
    p.add_argument("--limit-s", type=_positive, default=7200.0, metavar="S", help="longest that one run may take (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print the table as JSON")
    p.set_defaults(command=commands.labels, overrides=[])


def _warmstart(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "warmstart",
        "build the demo's starting policy",
        "Teaches a tiny model two-digit addition, badly, in about a minute: a start from which a reward can improve it.\n"
        "Nothing is downloaded. A finished folder is reused.",
    )
    p.add_argument("--out", metavar="FOLDER", help="where to write it (default: model.path of the recipe)")
    p.add_argument("--recipe", default="arithmetic_grpo", help="whose training prompts it is taught on (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="seed of its initialisation and demonstrations (default: %(default)s)")
    p.set_defaults(command=commands.warmstart)


def _train_rm(sub: argparse._SubParsersAction) -> None:
    p = _add(
        sub,
        "train-rm",
        "train a reward model from a file of preferences",
        "Fits a reward model to JSONL or Parquet rows and measures it on a held-out share. The fields decide what is learned:\n"
        "  chosen, rejected        a ranking (Bradley-Terry); optional preference in [0, 1], a tie is 0.5\n"
        "  text|completion, score  a regression\n"
        "  text|completion, label  a classification\n"
        "Texts are strings or lists of {role, content} messages; an optional prompt is put in front.",
    )
    p.add_argument("file", metavar="FILE", help="a .jsonl or .parquet file")
    p.add_argument("--out", metavar="FOLDER", required=True, help="where to write the model (a Hugging Face checkpoint)")
    p.add_argument("--model", metavar="PATH", help="language model or reward model to start from: a folder or a hub name")
    p.add_argument("--network", choices=("transformer", "char_cnn"), default="transformer", help="default: %(default)s")
    p.add_argument("--epochs", type=_count, default=1, help="passes over the data (default: %(default)s)")
    p.add_argument("--lr", type=_positive, default=1e-5, help="peak learning rate, falls to 0 (default: %(default)s)")
    p.add_argument("--batch-size", type=_count, default=32, help="examples per step (default: %(default)s)")
    p.add_argument("--max-length", type=_count, default=1024, help="tokens of a text; longer ones keep their end (default: %(default)s)")
    p.add_argument("--heads", type=_count, default=1, help="heads on one trunk, an ensemble (default: %(default)s)")
    p.add_argument(
        "--stages",
        type=int,
        choices=(1, 2),
        default=1,
        help="2 fits one head to comparisons, then --heads heads to its scores that say how sure they are (default: %(default)s)",
    )
    p.add_argument("--class-balance", action="store_true", help="weigh classes by the inverse of their share")
    p.add_argument("--validation-share", type=_share, default=0.1, help="share that is held out (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="seed of head and order (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print the report as JSON")
    p.set_defaults(command=commands.train_reward_model)


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _positive(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
    return value


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value
