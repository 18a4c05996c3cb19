#!/usr/bin/env bash
# Runs a profile of cluster/values.yaml on a Kubernetes cluster with the KubeRay operator, follows it, and exits with 0 only if it succeeds.
#
#   launch/kuberay.sh gpu                       a RayJob: a cluster for this run, gone after it
#   launch/kuberay.sh gpu --cluster             a RayCluster that stays; submit to it with launch/submit.sh
#   launch/kuberay.sh gpu --stop                deletes the job and its cluster; the volume with the runs stays
#   launch/kuberay.sh gpu --namespace training  in another namespace
#
# The manifests are cluster/rendered/PROFILE-*.yaml, made by `python cluster/render.py`. Ctrl-C only ends the following.
#
# RAYRL_KUBE_WAIT_S   how long nodes may take to come (default: 1800 s; images are large).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="${RAYRL_VENV:-$PWD/.venv}/bin:$PATH"

die() { printf 'kuberay: %s\n' "$*" >&2; exit 2; }
profile="${1:-}" kind=rayjob stop=0 namespace=()
[[ -n "$profile" && "$profile" != -* ]] || die "give a profile of cluster/values.yaml, such as: launch/kuberay.sh gpu"
shift
while (($#)); do
  case "$1" in
    --cluster) kind=raycluster ;;
    --stop) stop=1 ;;
    --namespace) [[ -n "${2:-}" ]] || die "--namespace needs a name"; namespace=(--namespace "$2"); shift ;;
    *) die "unknown argument $1 (see the head of launch/kuberay.sh)" ;;
  esac
  shift
done
manifest="cluster/rendered/$profile-$kind.yaml"
[[ -f "$manifest" ]] || die "there is no profile $profile: $(cd cluster/rendered && ls ./*-rayjob.yaml | sed 's|^\./||; s|-rayjob.yaml||' | paste -sd' ')"
command -v kubectl >/dev/null || die "kubectl is not installed"
python cluster/render.py --check || die "run: python cluster/render.py"

kube() { kubectl "${namespace[@]}" "$@"; }
name="$(awk '/^kind: Ray/ {found = 1} found && /^  name:/ {print $2; exit}' "$manifest")"

if ((stop)); then
  kube delete "$kind" "$name" --ignore-not-found
  exit
fi
kube apply -f "$manifest"
if [[ $kind == raycluster ]]; then
  kube wait --for=condition=HeadPodReady --timeout="${RAYRL_KUBE_WAIT_S:-1800}s" "raycluster/$name"
  echo "kuberay: kubectl ${namespace[*]} port-forward service/$name-head-svc 8265, then RAY_API_SERVER_ADDRESS and launch/submit.sh"
  exit
fi

field() { kube get rayjob "$name" -o "jsonpath={.status.$1}"; }
limit=$((SECONDS + ${RAYRL_KUBE_WAIT_S:-1800})) shown=""
while [[ "$(field jobDeploymentStatus)" != Running && -z "$(field endTime)" ]]; do
  ((SECONDS < limit)) || { kube get pods -l "ray.io/originated-from-cr-name=$name"; die "no nodes within ${RAYRL_KUBE_WAIT_S:-1800} s"; }
  now="$(field jobDeploymentStatus)"
  [[ "$now" == "$shown" ]] || { echo "kuberay: $name ${now:-accepted}"; shown="$now"; }
  sleep 2
done
kube logs --follow "job/$name" || true  # the pod that submitted follows the run's log
while [[ -z "$(field endTime)" ]]; do sleep 2; done
status="$(field jobStatus)"
echo "kuberay: $name $status $(field message)"
[[ "$status" == SUCCEEDED ]]
