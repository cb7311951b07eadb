"""Choose what MLflow's run list shows of a sweep: its trials alone, the best first, with the columns that differ.

MLflow keeps such a view as a tag of the experiment, in JSON, and its address names the tag. The format is that of
MLflow 3.17's "Save view"; older servers read the same keys. What a view leaves out has MLflow's default.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.tracking.run_tags import KIND_TAG, METHOD_TAG, SUITE_TAG, SWEEP_TAG, TRIAL_TAG, chosen_metric
from training.metric_names import EPOCH, TEST_MAP

VIEW_TAG = "mlflow.sharedViewState."
TRAINING_MODE = {"workflowType": "machine_learning"}
"""In an address: MLflow's menu for trained models, instead of the one for language models that it begins with."""
_SHARE_KEY = "viewStateShareKey"
_MAX_VIEW = 4900  # servers before MLflow 3 take 5,000 characters in a tag of an experiment
_NUM_CHARTED = 6


def make_view_tags(plan: SweepPlan) -> dict[str, str]:
    """Return the experiment's tag that holds the view of a sweep; empty if it would be too long."""
    return _write_view(plan.id, round(1000 * plan.created), _view(plan))


def make_suite_view_tags(suite_id: str, created_ms: int, metric: str) -> dict[str, str]:
    """Return the tag with the view of a benchmark: its final runs on the experiment's dataset, the best first.

    Args:
        suite_id, created_ms: Of the benchmark.
        metric: Of the test split.
    """
    return _write_view(suite_id, created_ms, _suite_view(suite_id, metric))


def _write_view(name: str, created_ms: int, content: Mapping[str, Any]) -> dict[str, str]:
    state = zlib.compress(json.dumps(content).encode())
    view = {
        "name": name,
        "createdAt": created_ms,
        "updatedAt": created_ms,
        "state": f"deflate;{base64.b64encode(state).decode()}",
    }
    text = json.dumps(view, separators=(",", ":"))
    return {f"{VIEW_TAG}{name}": text} if len(text) <= _MAX_VIEW else {}


def list_url(base: str, experiment_id: str, plan: SweepPlan, *, has_view: bool) -> str:
    """Return the address of the list of a sweep's trials, the best first.

    Args:
        base: The server's address.
        experiment_id: MLflow's id of the dataset's experiment.
        plan: The sweep.
        has_view: Whether the experiment has the tag of :func:`make_view_tags`; without it, columns are MLflow's.
    """
    return _write_url(base, experiment_id, {_SHARE_KEY: plan.id} if has_view else _facets(plan))


def compare_url(base: str, experiment_id: str, plan: SweepPlan, *, has_view: bool) -> str:
    """Return the address of the charts that compare a sweep's best trials; arguments as for :func:`list_url`."""
    return f"{list_url(base, experiment_id, plan, has_view=has_view)}&compareRunsMode=CHART"


def suite_url(base: str, experiment_id: str, suite_id: str) -> str:
    """Return the address of the view of :func:`make_suite_view_tags`, as charts."""
    return f"{_write_url(base, experiment_id, {_SHARE_KEY: suite_id})}&compareRunsMode=CHART"


def _write_url(base: str, experiment_id: str, asked: Mapping[str, str]) -> str:
    # MLflow takes what follows a + for part of the word.
    query = urlencode({**TRAINING_MODE, **asked}, quote_via=quote)
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def _facets(plan: SweepPlan) -> dict[str, str]:
    return _search(f"tags.`{SWEEP_TAG}` = '{plan.id}'", chosen_metric(plan.protocol))


def _search(wanted: str, metric: str) -> dict[str, str]:
    return {
        "searchFilter": f"{wanted} AND tags.`{TRIAL_TAG}` LIKE '%'",
        "orderByKey": _column("metrics", metric),
        "orderByAsc": "false",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
    }


def _view(plan: SweepPlan) -> dict[str, Any]:
    score, params = chosen_metric(plan.protocol), _varied(plan)
    metrics = [score, EPOCH, *([TEST_MAP] if plan.kind == "promote" else [])]
    columns = [
        *(_column("metrics", name) for name in metrics),
        *(_column("params", key) for key in params),
        *(_column("attributes", name) for name in ("Description", "Duration", "Dataset")),
    ]
    return _facets(plan) | _show(plan.id, columns, _charts(plan, score, params[:_NUM_CHARTED]))


def _suite_view(suite_id: str, metric: str) -> dict[str, Any]:
    wanted = f"tags.`{SUITE_TAG}` = '{suite_id}' AND tags.`{KIND_TAG}` = 'promote'"
    columns = [
        _column("tags", METHOD_TAG),
        _column("metrics", metric),
        _column("params", "loop.seed"),
        *(_column("attributes", name) for name in ("Description", "Duration")),
    ]
    chart = {"type": "BAR", "metricKey": metric, "runsCountToCompare": 100}
    return _search(wanted, metric) | _show(suite_id, columns, [chart])


def _show(name: str, columns: list[str], charts: list[dict[str, Any]]) -> dict[str, Any]:
    section = "sweep"
    return {
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": [_column("attributes", "Run Name"), *columns],
        "compareRunSections": [{"uuid": section, "name": name, "display": True, "isReordered": True}],
        "compareRunCharts": [
            {"uuid": f"chart{number}", "metricSectionId": section, "deleted": False, "isGenerated": False, **chart}
            for number, chart in enumerate(charts)
        ],
        "isAccordionReordered": True,
    }


def _charts(plan: SweepPlan, score: str, params: list[str]) -> list[dict[str, Any]]:
    lines = {"metricKey": plan.protocol.metric, "selectedMetricKeys": [plan.protocol.metric], "xAxisKey": "step"}
    charts: list[dict[str, Any]] = [{"type": "LINE", "runsCountToCompare": 10, **lines}]
    if len(params) > 1:
        parallel = {"selectedParams": params, "selectedMetrics": [score], "showAllRuns": True}
        charts.insert(0, {"type": "PARALLEL", "runsCountToCompare": 100, **parallel})
    for key in params:
        axes = {"xaxis": {"key": key, "type": "PARAM"}, "yaxis": {"key": score, "type": "METRIC"}}
        charts.append({"type": "SCATTER", "runsCountToCompare": 100, **axes})
    return charts


def _varied(plan: SweepPlan) -> list[str]:
    if plan.ranges:
        return list(plan.ranges)
    keys = dict.fromkeys(key for point in plan.start_from for key in point)
    return [key for key in keys if len({repr(point.get(key)) for point in plan.start_from}) > 1]


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
