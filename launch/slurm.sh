#!/usr/bin/env bash
# Starts a Ray cluster on the nodes of a Slurm allocation and runs a rayrl command on it.
#
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh train gsm8k --profile gpu_2nodes data.source=PATH run.dir=SHARED_FOLDER
#
# Checkout, virtual environment (RAYRL_VENV, default .venv) and run.dir lie in folders that all nodes share. One task per node:
# the first is head and driver, the others join. The token that guards the cluster is a file of mode 600 in the same folder.
# Before the time limit, and when the job is preempted, Slurm's signal makes the run save; `rayrl resume RUN_DIR` continues.
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@300
#SBATCH --output=rayrl-%j.log
set -euo pipefail

: "${SLURM_JOB_ID:?run it with sbatch}"
(($#)) || { echo "slurm: give a rayrl command, such as: train gsm8k --profile gpu_2nodes" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:-.}"
export PATH="${RAYRL_VENV:-$PWD/.venv}/bin:$PATH"

port="${RAYRL_RAY_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
address="$(srun --nodes=1 --ntasks=1 --overlap -w "$head" hostname --ip-address | awk '{print $1}')"
secrets="$(mktemp -d "$PWD/.ray-token-XXXXXX")"  # mode 700, on the shared file system
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$secrets/token" RAY_ADDRESS="$address:$port" RAY_USAGE_STATS_ENABLED=0
(umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")

children=()
finish() {
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$secrets"
}
trap finish EXIT

# --block keeps each Ray process in the foreground of its step, so that it ends with the step.
srun --nodes=1 --ntasks=1 --overlap -w "$head" \
  ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false --block &
children+=($!)
if ((SLURM_JOB_NUM_NODES > 1)); then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap --exclude="$head" \
    bash -c 'until ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1; do sleep 2; done; exec ray start --address "$RAY_ADDRESS" --block' &
  children+=($!)
fi

python - "$SLURM_JOB_NUM_NODES" <<'PYTHON'
import sys, time

import ray

wanted, limit = int(sys.argv[1]), time.monotonic() + 300
while True:
    try:
        ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
        break
    except Exception as error:
        if time.monotonic() > limit:
            sys.exit(f"slurm: no Ray head after 300 s: {error}")
        time.sleep(2)
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > limit:
        sys.exit(f"slurm: {alive} of {wanted} nodes joined within 300 s")
    time.sleep(2)
print(f"slurm: {alive} nodes", flush=True)
PYTHON

srun --nodes=1 --ntasks=1 --overlap -w "$head" python -m rayrl "$@" &
driver=$!
trap 'kill -TERM "$driver" 2>/dev/null || true' TERM INT
status=0
while kill -0 "$driver" 2>/dev/null; do wait "$driver" && status=0 || status=$?; done
exit "$status"
