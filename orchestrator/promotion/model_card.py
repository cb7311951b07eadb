"""Render the model card of a registered model: what it is, how it was chosen, and what it scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.verdict import Decision, Result
from orchestrator.sweep_folder.promotion_report import PromotionReport
from training.config.run import TrainConfig

_PHOTOS = (
    "The scenes are composed of the handwritten digits and the photos `china.jpg` and `flower.jpg` that come with "
    "scikit-learn (photos: CC BY 2.0, see the NOTICE of this project)."
)


def render_card(
    name: str,
    plan: SweepPlan,
    config: TrainConfig,
    classes: Sequence[str],
    provenance: Mapping[str, str],
    result: Result,
    decision: Decision,
    test: Mapping[int, Mapping[str, float]],
    report: PromotionReport,
) -> str:
    """Return the card as Markdown.

    Args:
        name: Name of the registered model.
        plan: The promotion.
        config: Settings of the registered run, which is that of the first seed.
        classes: Names of the classes.
        provenance: What the promotion's driver recorded.
        result: The selection metric per seed, on validation data.
        decision: Why it was promoted.
        test: Trial -> test metrics in percent, for every seed.
        report: The figures of the promotion.
    """
    parts = [
        f"# {name}",
        f"A multi-label classifier of {len(classes)} classes ({', '.join(classes)}), trained by `{plan.method}` on "
        f"`{plan.dataset}` with one observed positive label per image. These are the weights of the first of "
        f"{plan.num_seeds} training seeds, which was chosen in advance; the others show how much the score varies.",
        "## Scores (%)",
        _table(plan, result, test),
        *_describe_draws(report),
        f"Selected by {plan.protocol} on validation data, with at most {plan.epochs} epochs. {decision.verdict}: "
        f"{decision.reason}. The test split was opened {_times(plan)}, after that decision.",
        "## Where it comes from",
        "\n".join(
            f"- {key}: `{value}`" for key, value in {"sweep": plan.parent, "promotion": plan.id, **provenance}.items()
        ),
        "## Configuration",
        "\n".join(["```yaml", *(f"{key}: {value}" for key, value in config.flatten().items()), "```"]),
        "## Use",
        f"```\norchestrator predict {name}@champion FOLDER_OF_IMAGES\n```",
    ]
    # The licence of the photos requires their credit wherever the model goes.
    if plan.dataset == "digits":
        parts.append(_PHOTOS)
    return "\n\n".join(parts) + "\n"


def _times(plan: SweepPlan) -> str:
    return "once" if plan.num_draws == 1 else f"{plan.num_draws} times, once for each label draw"


def _describe_draws(report: PromotionReport) -> list[str]:
    """Return what other draws of the observed labels change, if it is known."""
    rows = report.draw_rows()
    if not rows:
        return []
    lines = ["| over label draws | mean | 95 % interval | of |", "|---|---|---|---|"]
    return ["\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])]


def _table(plan: SweepPlan, result: Result, test: Mapping[int, Mapping[str, float]]) -> str:
    # All metrics of all seeds; a metric that a seed lacks leaves an empty cell.
    names = sorted({name for figures in test.values() for name in figures})
    # The validation metric comes first, because it decided.
    columns: dict[str, list[float | None]] = {plan.protocol.metric: list(result.values)}
    columns |= {name: [test.get(trial, {}).get(name) for trial in range(plan.num_seeds)] for name in names}
    seeds = [str(point["loop.seed"]) for point in plan.start_from[: plan.num_seeds]]
    lines = [
        f"| metric | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | deviation |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    return "\n".join([*lines, *(_row(name, values) for name, values in columns.items())])


def _row(name: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    cells = ["" if value is None else f"{value:.2f}" for value in values]
    mean = f"{statistics.fmean(known):.2f}" if known else ""
    # One seed has no deviation; an empty cell is more honest than 0.00.
    deviation = f"{statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"| {' | '.join([name, *cells, mean, deviation])} |"
