#!/usr/bin/env bash
# Runs a rayrl command as a job on a Ray cluster, follows its log and exits with 0 only if it succeeds.
#
#   RAY_API_SERVER_ADDRESS=ADDRESS launch/submit.sh train gsm8k --profile gpu_2nodes data.source=PATH run.dir=SHARED_FOLDER
#
# The nodes need the same environment (an image, or a shared folder). The code comes from this checkout, without what .gitignore
# names; data, model and run.dir must be paths that the nodes can reach, because the copy of the checkout is gone after the job.
#
# RAY_API_SERVER_ADDRESS   the cluster's job server. A cluster that asks for a token also needs RAY_AUTH_MODE=token, and the
#                          token where Ray looks for it: a file that only you can read, never the command line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${RAY_API_SERVER_ADDRESS:?set it to the job server of the cluster}"
export PATH="${RAYRL_VENV:-$PWD/.venv}/bin:$PATH"

exec ray job submit --working-dir . -- python -m rayrl "${@:---help}"
