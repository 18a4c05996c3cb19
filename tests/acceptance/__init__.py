"""The papers' own checks on a language model: a tiny policy that adds carelessly, trained by the whole loop, against a control.

    python -m tests.acceptance                     (all runs on three seeds, about an hour on two cores; `--papers 2 20` for some)

Runs go one after the other in one process, on the in-process twin of the runtime, the torch engine and the torch learner: the same
driver loop without Ray (`conf/profiles/in_process.yaml`). Sums have nearly one length; what a page claims of lengths is looked at where
a hidden string is found by trying (`task:planted`). Warm starts that are missing are made, and a finished run in the output folder is
not repeated. Outcomes are written to `rayrl/measured.json`, which `rayrl methods` reads, whatever they say.
"""
