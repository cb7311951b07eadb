"""Test the KubeRay files: tokens, volumes and places of trials, and every field against the references."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[4]


def load(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((ROOT / "cluster" / name).read_text(encoding="utf-8"))


def test_kuberay_file_is_a_rayjob_with_token_and_no_trials_on_the_head() -> None:
    # Two files: deleting the first with `kubectl delete -f` must not delete the volume, on which the journals are.
    job, claim = (load(f"kuberay-{name}.yaml") for name in ("rayjob", "volume"))
    assert (claim["kind"], job["apiVersion"], job["kind"]) == ("PersistentVolumeClaim", "ray.io/v1", "RayJob")
    spec = job["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[:3] == ["python", "-m", "orchestrator"]
    assert words[words.index("--address") + 1] == "auto"
    assert words[words.index("--set") + 1] == "data.store=s3://bucket/voc", "the head has no data"
    assert spec["shutdownAfterJobFinishes"] is True
    ray = spec["rayClusterSpec"]
    locked = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    assert f"\nray=={ray['rayVersion']} " in locked
    assert ray["authOptions"] == {"mode": "token"}
    assert ray["enableInTreeAutoscaling"] is True
    head, (gpu,) = ray["headGroupSpec"], ray["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert (gpu["minReplicas"], gpu["replicas"]) == (0, 0)
    assert gpu["maxReplicas"] == int(words[words.index("--concurrency") + 1])
    for group in (head, gpu):
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert all(set(variable) == {"name", "value"} for variable in container["env"])
        assert container["envFrom"] == [{"secretRef": {"name": "spml-env"}}]
    assert head["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


KUBERAY_FIELDS: dict[str, dict[str, Any]] = {
    "RayJob.spec": {
        "entrypoint": str,
        "submissionMode": {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"},
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": "RayCluster.spec",
    },
    "RayCluster.spec": {
        "rayVersion": str,
        "authOptions": "authOptions",
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": "autoscalerOptions",
        "headGroupSpec": "headGroupSpec",
        "workerGroupSpecs": ["workerGroupSpec"],
    },
    "authOptions": {"mode": {"disabled", "token"}},  # since KubeRay 1.5.1
    "autoscalerOptions": {"idleTimeoutSeconds": int},
    "headGroupSpec": {"rayStartParams": "parameters", "template": "pod"},
    "workerGroupSpec": {
        "groupName": str,
        "replicas": int,
        "minReplicas": int,
        "maxReplicas": int,
        "rayStartParams": "parameters",
        "template": "pod",
    },
    "parameters": {"num-cpus": str, "num-gpus": str},  # strings, or the API server refuses them
    "pod": {"spec": "podSpec"},
    "podSpec": {"containers": ["container"], "volumes": ["volume"]},
    "container": {
        "name": str,
        "image": str,
        "resources": "resources",
        "env": ["variable"],
        "envFrom": ["source"],
        "ports": ["port"],
        "volumeMounts": ["mount"],
    },
    "resources": {"requests": "quantities", "limits": "quantities"},
    "quantities": {"cpu": str, "memory": str, "nvidia.com/gpu": int},
    "variable": {"name": str, "value": str},
    "source": {"secretRef": "named"},
    "named": {"name": str},
    "port": {"name": str, "containerPort": int},
    "mount": {"name": str, "mountPath": str},
    "volume": {"name": str, "persistentVolumeClaim": "claim"},
    "claim": {"claimName": str},
}
"""The fields of our file in KubeRay's and Kubernetes' references, with their types."""


def find_strangers(value: Any, kind: Any, where: str) -> list[str]:
    """Return what the references do not know, or know as something else."""
    if isinstance(kind, type):
        return [] if type(value) is kind else [f"{where} is {value!r}, no {kind.__name__}"]
    if isinstance(kind, set):
        return [] if value in kind else [f"{where} is {value!r}, none of {kind}"]
    if isinstance(kind, list):
        return [fault for item in value for fault in find_strangers(item, kind[0], where)]
    fields = KUBERAY_FIELDS[kind]
    unknown = [f"{where}.{name} is unknown" for name in value if name not in fields]
    known = [name for name in value if name in fields]
    return unknown + [fault for name in known for fault in find_strangers(value[name], fields[name], f"{where}.{name}")]


def test_every_field_of_the_kuberay_file_is_in_the_references_with_its_type() -> None:
    # An API server drops an unknown field without a word, and refuses one of another type.
    spec = load("kuberay-rayjob.yaml")["spec"]
    assert find_strangers(spec, "RayJob.spec", "spec") == []
    spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    spec["rayClusterSpec"]["authOption"] = {}
    assert len(find_strangers(spec, "RayJob.spec", "spec")) == 2
