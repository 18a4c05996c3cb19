#!/usr/bin/env bash
# The demo: a tiny model learns two-digit addition from a verifier, on a laptop without a GPU. Nothing is downloaded but packages.
#
#   launch/demo.sh                                   set up, build the starting model, train, evaluate before and after
#   SEED=1 STEPS=100 launch/demo.sh                  another seed, more steps
#   launch/demo.sh buffer.max_staleness=2            any setting of the recipe conf/recipes/arithmetic_grpo.yaml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/setup.sh
export PATH="${RAYRL_VENV:-$PWD/.venv}/bin:$PATH"

rayrl warmstart --recipe arithmetic_grpo
name="demo-$(date +%Y%m%d-%H%M%S)"
rayrl train arithmetic_grpo \
  run.name="$name" \
  run.seed="${SEED:-0}" \
  ${STEPS:+run.steps="$STEPS"} \
  "$@"

if [[ -f "runs/$name/report.html" ]]; then
  printf '\n  what it learned, wrote and waited for, as one page:\n  file://%s\n' "$PWD/runs/$name/report.html"
fi
