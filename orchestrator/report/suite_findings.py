"""Say in words what a benchmark found: contrasts, ties, what could not be seen, how often test was opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.durations import format_hours
from orchestrator.report.findings import name_times
from orchestrator.report.suite_view import SuiteView, name_metric
from orchestrator.results.comparison import Difference, format_p
from orchestrator.results.suite_budget import find_allowed
from orchestrator.results.suite_cells import FAILED
from orchestrator.results.suite_results import CellResult, ContrastResult, DatasetResult
from orchestrator.sweep_folder.spent import sum_runs
from training.counts import counted

_MOST_LISTED = 6


def describe_suite(view: SuiteView) -> Iterator[str]:
    """Yield the sentences of a benchmark's first screen, the most important first."""
    yield from describe_progress(view)
    yield from describe_results(view)


def describe_results(view: SuiteView) -> Iterator[str]:
    """Yield what was found so far, the most important first."""
    found = view.found
    yield from (_describe_contrast(view, each, each.difference) for each in found.contrasts if each.difference)
    if missing := [each for each in found.contrasts if each.difference is None]:
        listed = "; ".join(f"{each.method} against {each.against} on {each.dataset}" for each in missing)
        yield f"Without a result yet: {listed}."
    for dataset in found.datasets:
        yield from describe_dataset(view, dataset)
    yield describe_spending(view)
    marks = [*found.marks, *(f"{each.dataset}: {mark}" for each in found.datasets for mark in each.marks)]
    yield from (f"Note: {mark}." for mark in marks)


def describe_progress(view: SuiteView) -> Iterator[str]:
    """Say what is not done yet, and what failed."""
    failed = [cell for cell in view.unfinished if cell.state == FAILED]
    open_cells = [cell for cell in view.unfinished if cell.state != FAILED]
    if open_cells:
        done = len(view.found.cells) - len(view.unfinished)
        yield (
            f"This benchmark is not finished: {done} of {counted(len(view.found.cells), 'cell')} "
            f"{'is' if done == 1 else 'are'} done, so what follows may change. Missing: {_list_cells(open_cells)}. "
            f"`orchestrator resume {view.record.id}` continues it."
        )
    if failed:
        yield f"Failed, and therefore without a mean: {_list_cells(failed)}."


def _list_cells(cells: Sequence[CellResult]) -> str:
    listed = [f"{cell.method} on {cell.dataset} ({_say_state(cell)})" for cell in cells[:_MOST_LISTED]]
    more = len(cells) - len(listed)
    return "; ".join(listed) + (f"; and {more} more" if more else "")


def _say_state(cell: CellResult) -> str:
    if cell.state == FAILED:
        return cell.details
    return f"{cell.state}, {cell.details}" if cell.details else cell.state


def _describe_contrast(view: SuiteView, contrast: ContrastResult, found: Difference) -> str:
    assert contrast.p_holm is not None
    how = f"over {counted(found.num, 'seed')}, p {format_p(contrast.p_holm)}"
    if (num := len(view.found.contrasts)) > 1:
        how += f" corrected for {num} contrasts"
    if not contrast.is_significant:
        return (
            f"No difference was shown between {contrast.method} and {contrast.against} on {contrast.dataset}: "
            f"{found.mean:+.2f} points (95 % interval {found.low:+.2f} to {found.high:+.2f} {how})."
        )
    better, worse = contrast.method, contrast.against
    if found.mean < 0:
        better, worse = worse, better
    low, high = sorted((abs(found.low), abs(found.high)))
    return (
        f"{better} is better than {worse} on {contrast.dataset} by {abs(found.mean):.2f} points (95 % interval "
        f"{low:.2f} to {high:.2f} {how})."
    )


def describe_dataset(view: SuiteView, dataset: DatasetResult) -> Iterator[str]:
    """Say which methods lead and cannot be told apart, what could have been seen, and how often test was opened."""
    compared = [cell for cell in dataset.cells if cell.scores and not cell.is_bound]
    if compared:
        yield _describe_lead(dataset, compared)
    if dataset.floor is not None:
        num = max(1, len(view.found.contrasts))
        first = f" as the first of {num} contrasts" if num > 1 else ""
        seeds = counted(len(compared[0].scores), "seed")
        yield (
            f"With {seeds}, two methods on {dataset.dataset} have to differ by about "
            f"{dataset.floor:.2f} points to be told apart{first}; less if their difference varies less from seed to "
            f"seed than that of most pairs."
        )
    yield _describe_openings(dataset)


def _describe_lead(dataset: DatasetResult, compared: Sequence[CellResult]) -> str:
    leader, others = compared[0], compared[1:]
    what = "the highest mean" if others else "the only mean so far"
    text = (
        f"On {dataset.dataset}, {leader.method} has {what}: {leader.mean:.2f} % {name_metric(dataset)} "
        f"(95 % interval {leader.low:.2f} to {leader.high:.2f} over {counted(len(leader.scores), 'seed')})."
    )
    tied = [cell for cell in others if leader.group is not None and cell.group == leader.group]
    if tied:
        probs = ", ".join(
            f"{cell.method} {cell.best_prob:.2f}" for cell in [leader, *tied] if cell.best_prob is not None
        )
        text += f" It cannot be told apart from {', '.join(cell.method for cell in tied)}; P(best): {probs}."
    elif others:
        text += " No other method is tied with it."
    bounds = [cell for cell in dataset.cells if cell.is_bound and cell.scores]
    listed = ", ".join(f"{cell.method} {cell.mean:.2f} %" for cell in bounds)
    return text + (f" Bounds, which know more: {listed}." if listed else "")


def _describe_openings(dataset: DatasetResult) -> str:
    own = sum(len(cell.openings) for cell in dataset.cells)
    done = f"has opened the test split of {dataset.dataset} {name_times(own)}"
    text = f"This benchmark {done if own else f'has not opened the test split of {dataset.dataset}'}"
    if dataset.openings is None:
        return f"{text}."
    if dataset.openings.num is None:
        return (
            f"{text}; the test ledger of this home is damaged, so openings may be missing: {dataset.openings.problem}"
        )
    return f"{text}; by the ledger of this home, it was opened {name_times(dataset.openings.num)} in all."


def describe_spending(view: SuiteView) -> str:
    """Say what everything cost, and what the searches passed of what they may."""
    hours: dict[str, float] = {}
    for cell in view.cells.values():
        for plan, state in cell.all:
            unit, spent = plan.resources.hours_unit, sum_runs(plan, state.records.values()).hours
            hours[unit] = hours.get(unit, 0.0) + spent
    if not hours:
        return "Nothing has run yet."
    text = "All runs cost " + " and ".join(f"{format_hours(spent)} {unit}" for unit, spent in sorted(hours.items()))
    images = _sum_images(view)
    if images is None:
        return f"{text}."
    passed, allowed = images
    return f"{text}; the searches passed {passed:,.0f} of the {allowed:,.0f} images that their budgets allow."


def _sum_images(view: SuiteView) -> tuple[float, float] | None:
    if view.record.budget.by != "images":
        return None
    searches = [cell.search for cell in view.found.cells if cell.search is not None]
    passed = [search.images for search in searches if search.images is not None]
    limits = [find_allowed(view.record, cell.dataset, view.cells) for cell in view.found.cells]
    known = [limit for limit in limits if limit is not None]
    if len(passed) < len(searches) or len(known) < len(limits):
        return None
    return sum(passed), sum(known)
