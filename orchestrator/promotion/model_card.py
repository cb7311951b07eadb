"""The model card that lies beside a registered model's weights: what it is, how it was chosen, what it scored."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.verdict import Decision, Result
from training.config.run import TrainConfig

_PHOTOS = (
    "The scenes are made of the handwritten digits and of the photos `china.jpg` and `flower.jpg` that ship with "
    "scikit-learn "
    "(photos: CC BY 2.0, see the NOTICE of this project)."
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
) -> str:
    """Return the card as Markdown.

    Args:
        name: Of the registered model.
        plan: The promotion.
        config: Of the registered run, that of the first seed.
        provenance: Of the promotion's driver.
        result: The selection metric per seed, on validation data.
        test: Trial -> test metrics in percent, for every seed.
    """
    parts = [
        f"# {name}",
        f"Multi-label classifier of {len(classes)} classes ({', '.join(classes)}), trained with one observed positive "
        f"label per image by "
        f"`{plan.method}` on `{plan.dataset}`. These are the weights of the first of {plan.num_trials} training seeds, "
        f"fixed in advance; "
        "the others show how far its score can be trusted.",
        "## Scores (%)",
        _table(plan, result, test),
        f"Selected by {plan.protocol} on validation data, at most {plan.epochs} epochs. {decision.verdict}: "
        f"{decision.reason}. "
        "The test split was opened once, after that decision.",
        "## Where it comes from",
        "\n".join(
            f"- {key}: `{value}`" for key, value in {"sweep": plan.parent, "promotion": plan.id, **provenance}.items()
        ),
        "## Configuration",
        "\n".join(["```yaml", *(f"{key}: {value}" for key, value in config.flatten().items()), "```"]),
        "## Use",
        f"```\norchestrator predict {name}@champion FOLDER_OF_IMAGES\n```",
    ]
    if plan.dataset == "digits":
        parts.append(_PHOTOS)
    return "\n\n".join(parts) + "\n"


def _table(plan: SweepPlan, result: Result, test: Mapping[int, Mapping[str, float]]) -> str:
    names = sorted({name for figures in test.values() for name in figures})
    columns: dict[str, list[float | None]] = {plan.protocol.metric: list(result.values)}
    columns |= {name: [test.get(trial, {}).get(name) for trial in range(plan.num_trials)] for name in names}
    seeds = [str(point["loop.seed"]) for point in plan.start_from]
    lines = [
        f"| metric | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | deviation |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    return "\n".join([*lines, *(_row(name, values) for name, values in columns.items())])


def _row(name: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    cells = ["" if value is None else f"{value:.2f}" for value in values]
    mean = f"{statistics.fmean(known):.2f}" if known else ""
    deviation = f"{statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"| {' | '.join([name, *cells, mean, deviation])} |"
