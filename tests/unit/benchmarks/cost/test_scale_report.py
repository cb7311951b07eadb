from __future__ import annotations

from benchmarks.cost.scale_report import (
    MANY_HEADING,
    Measured,
    conclude_many,
    conclude_mlflow,
    conclude_tpe,
    find_section,
    render_report,
    render_rows,
    replace_section,
)


def test_rows_are_a_table() -> None:
    assert render_rows("Verbs", ["cpu_s"], {"status": {"cpu_s": 0.30001}}).splitlines() == [
        "## Verbs",
        "",
        "| | cpu_s |",
        "|---|---|",
        "| status | 0.3 |",
    ]


def measured(*, slower: float = 1.0, load: float = 0.0, most: int = 10_000) -> Measured:
    """Return figures that all meet their aims, unless everything is slower by a factor."""
    sweep = {"trial_ms": 30.0 * slower, "wall_ms": 30.0, "growth": slower, "writer_cpu_s": 3.0, "catch_up_s": 1.0}
    rates = {"results_per_s": 400 / slower, "cpu_ms": 0.1}
    return Measured(
        plain={most: {**sweep, "growth": 1.0}},
        ours={most: sweep},
        once=sweep,
        often={**sweep, "trial_ms": 60.0 * slower},
        tpe={100: {"ask_ms": 4.0, "tell_ms": 0.2}, 10_000: {"ask_ms": 64.0, "tell_ms": 0.3}},
        journal={1000: rates, 10_000: rates},
        num_stored=300,
        catch_up={
            "sqlite": {"results_per_s": 11.0, "cpu_ms": 28.0},
            "postgresql": {"results_per_s": 120.0, "cpu_ms": 22.0},
        },
        resumed={1000: {"read_s": 3.0 * slower, "read_cpu_s": 0.1, "first_hand_out_s": 21.0}},
        num_listed=10_000,
        verbs={
            verb: {"wall_s": 0.6 * slower, "cpu_s": 0.5, "first_cpu_s": 0.9, "bare_cpu_s": 0.2}
            for verb in ("status", "leaderboard")
        },
        load=load,
    )


def test_a_report_says_whether_each_aim_is_met() -> None:
    report = render_report(measured())
    assert (report.count(": met)"), report.count(": missed)")) == (8, 0)
    assert "| with 10,000 trials in it | 400 (at least 200: met) | 0.1 |" in report
    assert "| 1,000 trials | 3 (at most 5: met) | 0.1 | 21 |" in report
    assert "| status | 0.6 (at most 1: met) | 0.5 |" in report
    assert (
        render_report(measured(slower=3)).count(": met)"),
        render_report(measured(slower=3)).count(": missed)"),
    ) == (0, 8)


def test_a_report_says_what_its_figures_are_worth() -> None:
    quiet = render_report(measured())
    assert "busy with other work" not in quiet
    assert "not measured beyond" not in quiet
    assert "**The machine was busy with other work**" in render_report(measured(load=99.0))
    assert "The driver was not measured beyond 1,000 trials." in render_report(measured(most=1000))


def test_conclusions_are_computed_from_the_figures() -> None:
    found = measured()
    assert "an ask after 10,000 trials takes 64 ms of CPU, and about 34 ms on average" in conclude_tpe(found.tpe)
    assert conclude_mlflow(found.once, found.catch_up).startswith(
        "Trivial trials report 100 results/s, sqlite takes 11, postgresql takes 120: sqlite falls behind such trials."
    )
    assert "both keep up with such trials" in conclude_mlflow({"wall_ms": 3000.0}, found.catch_up)
    assert "sqlite and postgresql fall behind such trials" in conclude_mlflow({"wall_ms": 3.0}, found.catch_up)
    assert conclude_tpe(found.tpe) in render_report(found)


def test_the_knee_is_where_the_results_of_a_second_take_a_second() -> None:
    rows = [{"at_once": num, "result_ms": 2 + num / 100} for num in (100, 300, 1000)]
    text = conclude_many(rows)
    assert "about 230 results per second" in text  # 230 * 4.3 ms
    assert "a result takes about 12 ms" in text
    assert "about 500 results" in conclude_many([{"at_once": num, "result_ms": 2.0} for num in (100, 300)])


def test_a_section_is_replaced_and_the_rest_is_kept() -> None:
    section = f"{MANY_HEADING}\n\nnew\n"
    for text in ("# Title\n\n## A\n\na\n", f"# Title\n\n## A\n\na\n\n{MANY_HEADING}\n\nold\n\n## B\n\nb\n"):
        found = replace_section(text, section)
        assert "old" not in found
        assert find_section(found, MANY_HEADING).strip() == section.strip()
        assert "## A\n\na\n" in found
        assert ("## B\n\nb\n" in found) == ("## B" in text)
    assert find_section("# Title\n", MANY_HEADING) == ""
