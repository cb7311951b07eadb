"""Reports what a sweep needs but lacks, on this machine or on every node of a cluster, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.cluster.checks import CHECKS, Finding, Health, run_check
from orchestrator.cluster.nodes import (
    Machines,
    NodeReport,
    ask_nodes,
    compare_versions,
    find_obstacle_to_sharing,
    look_at_machines,
)
from orchestrator.cluster.session import joined
from orchestrator.datasets.prepared import list_stores
from orchestrator.health import ask_mlflow
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import trial_config
from orchestrator.uris import require_safe_uri
from training.config.run import Scalar
from training.data.dataset_names import EMBEDDED, prepare_command


def diagnose() -> list[Finding]:
    """Run every check on this machine; none of them starts, changes or downloads anything."""
    return [run_check(check) for check in CHECKS]


def diagnose_nodes(
    address: str, space: str | None = None, storage: str | None = None, overrides: Mapping[str, Scalar] | None = None
) -> tuple[list[NodeReport], Machines]:
    """Check every node of a cluster by one small task on each.

    Args:
        address: The cluster's.
        space: The search space whose data and weights to check. None checks all data prepared from this home, and
            no weights.
        storage: Where checkpoints would go.
        overrides: Settings that replace the space's, as ``--set`` of a sweep does: ``data.store``, say.

    Returns:
        The reports, the driver's node first; and the machines of the cluster.

    Raises:
        SpaceError: The space is wrong.
        UserError: A setting is wrong, or a place holds credentials.
        OrchestratorError: No Ray answers at that address.
    """
    from orchestrator.tracking.connection import tracking_uri

    require_safe_uri("--storage", storage)
    stores, config, problems = list_stores(), None, {}
    if space is not None:
        # Only the settings are read. The numbers of CPUs and GPUs are given so that this machine is not counted for
        # nothing.
        plan = make_plan(PlanRequest(space, overrides=overrides or {}, num_cpus=1, num_gpus=0))
        stores, problems = {}, _find_missing_store(plan.base)
        config = trial_config(plan, {}).flatten()
    tracking = tracking_uri()
    server = tracking if tracking.startswith(("http://", "https://")) else None
    with joined(address):
        reports = ask_nodes(stores=stores, storage=storage, tracking=server, config=config)
        machines = look_at_machines()
    obstacle = find_obstacle_to_sharing(tracking, "", machines, (), is_networked=True)
    if obstacle is not None:
        problems["MLflow"] = obstacle
    elif server is not None and (refusal := _find_refusal(server)):
        problems["MLflow"] = refusal
    # These concern the driver, which runs on the first node.
    reports[0] = replace(reports[0], problems={**reports[0].problems, **problems})
    return compare_versions(reports), machines


def _find_missing_store(base: Mapping[str, Scalar]) -> dict[str, str]:
    name = str(base["data.name"])
    if name == EMBEDDED or base.get("data.store"):
        return {}
    return {
        f"data: {name}": f"the driver's node does not know where the prepared {name} is. Prepare it once "
        f"({prepare_command(name)} --out s3://bucket/{name}), and name it both here and for the sweep: "
        f"--set data.store=s3://bucket/{name}"
    }


def _find_refusal(server: str) -> str | None:
    """Return why MLflow refuses the driver. The nodes do not need its password, so they do not check it."""
    answer = ask_mlflow(server)
    return f"the server refuses the driver's credentials ({answer.reason})" if answer.is_refused else None


def list_fixes(findings: Iterable[Finding]) -> dict[str, str]:
    """Return each fix with the subjects that it fixes, separated by commas."""
    fixes: dict[str, list[str]] = {}
    for finding in findings:
        if finding.fix:
            fixes.setdefault(finding.fix, []).append(finding.subject)
    return {fix: ", ".join(subjects) for fix, subjects in fixes.items()}


def is_healthy(findings: list[Finding]) -> bool:
    """Return whether a sweep on the embedded dataset can run."""
    return all(finding.health is not Health.FAIL for finding in findings)
