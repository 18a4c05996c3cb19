"""Makes the manifests in ``cluster/rendered`` from ``cluster/values.yaml``: KubeRay's RayCluster and RayJob, and `ray up` files.

    python cluster/render.py            # writes them
    python cluster/render.py --check    # exits with 1 where they are not up to date

For each profile: ``PROFILE-raycluster.yaml`` (a cluster that stays, for launch/submit.sh), ``PROFILE-rayjob.yaml`` (a cluster for
one run, for launch/kuberay.sh) and ``PROFILE-ray-up.yaml`` (virtual machines). Plain data in, plain data out.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
RENDERED = HERE / "rendered"
HEADER = "# Made by cluster/render.py from cluster/values.yaml: change that, not this.\n"
DASHBOARD = 8265
Manifest = dict[str, Any]


def load_values() -> Manifest:
    return yaml.safe_load((HERE / "values.yaml").read_text(encoding="utf-8"))


def render(values: Manifest) -> dict[str, str]:
    """File name -> content."""
    files = {}
    for name, profile in values["profiles"].items():
        files[f"{name}-raycluster.yaml"] = _dump(volume_claim(values), ray_cluster(values, name, profile))
        files[f"{name}-rayjob.yaml"] = _dump(volume_claim(values), ray_job(values, name, profile))
        files[f"{name}-ray-up.yaml"] = _dump(ray_up(values, name, profile))
    return files


def ray_version() -> str:
    """The pin of pyproject.toml."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = "\n".join(r for extra in project["optional-dependencies"].values() for r in extra)
    return re.search(r"^ray\[default\]==(\S+)$", pins, re.MULTILINE)[1]


def entrypoint(values: Manifest, name: str, profile: Manifest) -> list[str]:
    """The command of a run, in words."""
    folder = f"{values['shared_path']}/runs/{profile['recipe']}"
    return [
        "python",
        "-m",
        "rayrl",
        "train",
        profile["recipe"],
        "--profile",
        profile["profile"],
        f"run.dir={folder}",
        *profile["overrides"],
    ]


# ---- Kubernetes ---------------------------------------------------------------------------------------------------------------


def volume_claim(values: Manifest) -> Manifest:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": values["shared_size"]}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": values["shared_claim"]}, "spec": spec}


def ray_cluster(values: Manifest, name: str, profile: Manifest) -> Manifest:
    metadata = {"name": f"{values['name']}-{name}", "labels": _labels(values, name)}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": cluster_spec(values, name, profile)}


def ray_job(values: Manifest, name: str, profile: Manifest) -> Manifest:
    metadata = {"name": f"{values['name']}-{name}-{profile['recipe'].replace('_', '-')}", "labels": _labels(values, name)}
    spec = {
        "entrypoint": shlex.join(entrypoint(values, name, profile)),
        # only what concerns Ray's job server itself: packages and code are those of the image, nothing is built on the nodes
        "runtimeEnvYAML": f'env_vars:\n  RAY_JOB_STOP_WAIT_TIME_S: "{values["grace_s"]}"\n',
        "submissionMode": "K8sJobMode",
        "backoffLimit": 0,  # a run is continued with `rayrl resume`, never begun again
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": cluster_spec(values, name, profile),
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def cluster_spec(values: Manifest, name: str, profile: Manifest) -> Manifest:
    return {
        "rayVersion": ray_version(),
        "authOptions": {"mode": "token"},  # KubeRay makes the token, keeps it in a secret, and gives it to every pod
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 600,
            "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}},
            "securityContext": _container_security(),
        },
        "headGroupSpec": {
            # no CPUs for roles: the head has the driver and Ray's own services to carry
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": pod(values, name, "head", profile["head"] | {"gpus": 0, "shm": "1Gi"}),
        },
        "workerGroupSpecs": [worker_group(values, name, group, size) for group, size in profile["groups"].items()],
    }


def worker_group(values: Manifest, name: str, group: str, size: Manifest) -> Manifest:
    """Nodes of one kind, marked with a custom resource of their group's name (``placement.node_groups``)."""
    return {
        "groupName": group,
        "replicas": size["replicas"],
        "minReplicas": size["replicas"],
        "maxReplicas": size["max"],
        "rayStartParams": {"resources": json.dumps(json.dumps({group: 1}))},  # KubeRay puts it on a command line: quoted twice
        "template": pod(values, name, group, size),
    }


def pod(values: Manifest, name: str, group: str, size: Manifest) -> Manifest:
    resources = {"cpu": str(size["cpus"]), "memory": size["memory"]} | ({"nvidia.com/gpu": str(size["gpus"])} if size["gpus"] else {})
    head = group == "head"
    container = {
        "name": f"ray-{'head' if head else 'worker'}",
        "image": values["image"],
        "env": _variables(values),
        "resources": {"requests": resources, "limits": resources},
        "securityContext": _container_security(),
        "volumeMounts": [{"name": "shared", "mountPath": values["shared_path"]}, {"name": "shm", "mountPath": "/dev/shm"}],
        # grants long pauses: a node that loads a model answers late; one that is gone is noticed by Ray itself
        "readinessProbe": _probe(head, period=10, failures=10),
        "livenessProbe": _probe(head, period=30, failures=20),
    }
    if head:
        ports = {"gcs": 6379, "dashboard": DASHBOARD, "client": 10001}
        container["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    return {
        "metadata": {"labels": _labels(values, name) | {"rayrl/group": group}},
        "spec": {
            "terminationGracePeriodSeconds": values["grace_s"],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": values["user"],
                "runAsGroup": values["user"],
                "fsGroup": values["user"],
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "shared", "persistentVolumeClaim": {"claimName": values["shared_claim"]}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size["shm"]}},
            ],
        },
    }


def _variables(values: Manifest) -> list[Manifest]:
    """Plain settings by value, keys only by reference."""
    plain = {"HF_HOME": f"{values['shared_path']}/cache/huggingface", "RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false"}
    by_value = [{"name": key, "value": value} for key, value in plain.items()]
    keys = [(key, {"secretKeyRef": {"name": values["secret"], "key": key, "optional": True}}) for key in values["secret_keys"]]
    return by_value + [{"name": key, "valueFrom": source} for key, source in keys]


def _probe(head: bool, period: int, failures: int) -> Manifest:
    """Asks Ray's own processes on this node; neither path asks for the token."""
    checks = ["http://127.0.0.1:52365/api/local_raylet_healthz", *([f"http://127.0.0.1:{DASHBOARD}/api/gcs_healthz"] if head else [])]
    command = " && ".join(f"wget -q -T 4 -O- {url} | grep -q success" for url in checks)
    times = {"initialDelaySeconds": 10, "periodSeconds": period, "timeoutSeconds": 10, "failureThreshold": failures}
    return {"exec": {"command": ["bash", "-c", command]}, **times}


def _container_security() -> Manifest:
    return {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}


def _labels(values: Manifest, name: str) -> Manifest:
    return {"app.kubernetes.io/name": values["name"], "app.kubernetes.io/component": name}


# ---- virtual machines -------------------------------------------------------------------------------------------------------------


def ray_up(values: Manifest, name: str, profile: Manifest) -> Manifest:
    """Configuration of `ray up`: one type of machine per group, the same image, nothing installed at start."""
    start = "ulimit -n 65536; ray start --{role} --autoscaling-config=~/ray_bootstrap_config.yaml"
    types = {"head": _machine(profile["head"] | {"replicas": 0, "max": 0}, {"CPU": 0})}
    for group, size in profile["groups"].items():
        types[group] = _machine(size, {"CPU": size["cpus"], group: 1} | ({"GPU": size["gpus"]} if size["gpus"] else {}))
    run_options = ["--shm-size=64g" if profile["groups"]["learner"]["gpus"] else "--shm-size=2g", f"--user={values['user']}"]
    gpus = ["--gpus=all"] if profile["groups"]["learner"]["gpus"] else []
    return {
        "cluster_name": f"{values['name']}-{name}",
        "max_workers": sum(size["max"] for size in profile["groups"].values()),
        "idle_timeout_minutes": 10,
        "provider": {"type": "aws", "region": "us-west-2", "cache_stopped_nodes": False},
        "auth": {"ssh_user": "ubuntu"},
        "docker": {
            "image": values["image"],
            "container_name": values["name"],
            "run_options": [*run_options, f"-v={values['shared_path']}:{values['shared_path']}"],
            "worker_run_options": gpus,
        },
        "available_node_types": types,
        "head_node_type": "head",
        "head_start_ray_commands": [
            "ray stop",
            start.format(role="head") + f" --port=6379 --dashboard-host=127.0.0.1 --dashboard-port={DASHBOARD}",
        ],
        "worker_start_ray_commands": ["ray stop", "ulimit -n 65536; ray start --address=$RAY_HEAD_IP:6379"],
    }


def _machine(size: Manifest, resources: Manifest) -> Manifest:
    node = {"InstanceType": size["instance"]}
    return {"node_config": node, "resources": resources, "min_workers": size["replicas"], "max_workers": size["max"]}


# ---- files --------------------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Without aliases: a manifest is read by people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(*documents: Manifest) -> str:
    return HEADER + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=160, allow_unicode=True)


def main() -> int:
    files, check = render(load_values()), "--check" in sys.argv[1:]
    present = {path.name for path in RENDERED.glob("*.yaml")}
    stale = [n for n, text in files.items() if n not in present or (RENDERED / n).read_text(encoding="utf-8") != text]
    strange = sorted(present - files.keys())
    if check:
        print(*(f"not up to date: {name}" for name in [*stale, *strange]), sep="\n")
        return int(bool(stale or strange))
    RENDERED.mkdir(exist_ok=True)
    for name, text in files.items():
        (RENDERED / name).write_text(text, encoding="utf-8")
    for name in strange:
        (RENDERED / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
