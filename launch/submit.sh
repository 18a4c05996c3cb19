#!/usr/bin/env bash
# Runs a rayrl command as a job on a Ray cluster, follows its log, and exits with 0 only if it succeeds.
#
#   RAY_API_SERVER_ADDRESS=ADDRESS launch/submit.sh train gsm8k --profile gpu_2nodes data.source=PATH run.dir=SHARED_FOLDER
#
# The code is this checkout, without tests and what .gitignore names. Packages are those of the nodes (an image, or a virtual
# environment in a shared folder): nothing is built there, and every actor refuses to start where they differ from the driver's.
# data, model and run.dir must be paths that the nodes can reach: the copy of the checkout is gone after the job.
# Ctrl-C asks whether to stop the job (it saves first), and leaves it running otherwise.
#
# RAY_API_SERVER_ADDRESS   the cluster's job server.
# RAY_AUTH_MODE=token      where the cluster asks for a token (`ray start --head` does). The token comes from the file that
#                          RAY_AUTH_TOKEN_PATH names, mode 600 (default: ~/.ray/auth_token), never from the command line.
# RAYRL_SUBMIT_PYTHON      the interpreter on the nodes (default: python).
# RAYRL_ON_INTERRUPT       stop or leave: what Ctrl-C does without asking, for scripts.
#
# Only these variables travel with the job. Keys (HF_TOKEN, WANDB_API_KEY) do not: give them to the nodes as a secret.
forwarded=(HF_HOME HF_HUB_OFFLINE TOKENIZERS_PARALLELISM WANDB_MODE NCCL_DEBUG NCCL_SOCKET_IFNAME VLLM_CPU_KVCACHE_SPACE)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${RAY_API_SERVER_ADDRESS:?set it to the job server of the cluster}"
(($#)) || { sed -n '2,/^forwarded/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 2; }
export PATH="${RAYRL_VENV:-$PWD/.venv}/bin:$PATH"

token="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
if [[ "${RAY_AUTH_MODE:-}" == token && -z "${RAY_AUTH_TOKEN:-}" ]]; then
  [[ -r "$token" ]] || { echo "submit: RAY_AUTH_MODE is token and $token cannot be read" >&2; exit 2; }
  [[ "$(stat -L -c %a "$token")" =~ 00$ ]] || { echo "submit: others can read $token: chmod 600 $token" >&2; exit 2; }
fi

id="rayrl-$(date +%Y%m%d-%H%M%S)-$$"
environment="$(mktemp)"
trap 'rm -f "$environment" "$environment.log"' EXIT
python - "${forwarded[@]}" >"$environment" <<'PYTHON'
import json, os, sys

# a stopped job gets the time to finish its step and save; the recorded run folder, not the copy of the checkout, is what counts
variables = {"RAY_JOB_STOP_WAIT_TIME_S": "600"} | {name: os.environ[name] for name in sys.argv[1:] if name in os.environ}
print(json.dumps({"env_vars": variables, "excludes": ["/.git", "/tests", "/runs", "/models", "/wandb"]}))
PYTHON

RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES="" ray job submit --no-wait --submission-id "$id" --working-dir . --runtime-env "$environment" \
  -- exec "${RAYRL_SUBMIT_PYTHON:-python}" -m rayrl "$@" >"$environment.log" 2>&1 || { cat "$environment.log" >&2; exit 1; }
echo "submit: job $id at $RAY_API_SERVER_ADDRESS"

left() { printf 'submit: job %s goes on. Follow: ray job logs --follow %s   Stop: ray job stop %s\n' "$id" "$id" "$id"; }
state() { ray job status "$id" 2>&1 | grep -oiE 'succeeded|failed|stopped|running|pending' | head -n 1 | tr '[:lower:]' '[:upper:]' || true; }
interrupted() {
  local answer="${RAYRL_ON_INTERRUPT:-}"
  if [[ -z "$answer" && -t 0 ]]; then read -r -p $'\nsubmit: stop the job? It saves first. [y/N] ' answer || true; fi
  case "$answer" in
    y* | Y* | stop) echo "submit: stopping $id"; ray job stop --no-wait "$id" >/dev/null ;;
    *) left; kill "$follower" 2>/dev/null; exit 130 ;;
  esac
}

ray job logs --follow "$id" </dev/null &  # in the background Ctrl-C does not reach it
follower=$!
trap interrupted INT
while kill -0 "$follower" 2>/dev/null; do wait "$follower" || true; done  # `wait` also returns when a signal was handled

silent=0 ended=""
until [[ "$ended" == SUCCEEDED || "$ended" == FAILED || "$ended" == STOPPED ]]; do  # the status is written after the log's end
  ended="$(state)"
  [[ -n "$ended" ]] && silent=0 || silent=$((silent + 1))
  if ((silent > 5)); then echo "submit: the job server does not answer" >&2; left; exit 1; fi
  [[ "$ended" == RUNNING || "$ended" == PENDING || -z "$ended" ]] && sleep 1
done
echo "submit: job $id $ended"
case "$ended" in SUCCEEDED) exit 0 ;; STOPPED) exit 130 ;; *) exit 1 ;; esac
