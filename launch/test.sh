#!/usr/bin/env bash
# Everything that must hold before a change goes in: style, types, import contracts, tests. Runs all of it, then sums up.
#
#   launch/test.sh                       all of it, without the tests marked slow
#   launch/test.sh tests/unit/config     the arguments go to pytest in place of -m "not slow"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/setup.sh --dev
export PATH="${RAYRL_VENV:-$PWD/.venv}/bin:$PATH"

summary=()
failed=0
check() {  # check NAME command...
  local name="$1" begin=$SECONDS state=ok
  shift
  printf '\n== %s\n' "$name"
  "$@" || { state=FAILED; failed=1; }
  summary+=("$(printf '%-18s %-6s %4d s' "$name" "$state" "$((SECONDS - begin))")")
}

check "ruff" ruff check .
check "format" ruff format --check .
check "types" mypy
check "import contracts" lint-imports
if (($#)); then check "tests" pytest "$@"; else check "tests" pytest -m "not slow"; fi

printf '\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
