#!/usr/bin/env bash
# Everything that must hold before a change goes in: style, types, import contracts, tests. Runs all of it, then sums up.
#
#   launch/test.sh                       all of it, without the tests marked slow
#   launch/test.sh tests/unit/config     the arguments go to pytest in place of -m "not slow"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/setup.sh --dev
export PATH="${RAYRL_VENV:-$PWD/.venv}/bin:$PATH"

# The page of `rayrl report` is tested in a real browser; without one those tests say that they were skipped.
if ! command -v chromedriver >/dev/null && command -v apt-get >/dev/null && [[ $EUID == 0 ]]; then
  echo "installing Chromium for the tests of the report"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium chromium-driver; } >/tmp/rayrl-chromium.log 2>&1 ||
    echo "no Chromium: $(tail -n 1 /tmp/rayrl-chromium.log)"
fi

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
if (($#)); then check "tests" pytest "$@"; else check "tests" pytest -m "not slow" --durations=30; fi

printf '\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
