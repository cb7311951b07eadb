from __future__ import annotations

from benchmarks.faults.report import Cost, render_report


def test_report_adds_up_the_rounds() -> None:
    rounds = [
        [Cost("checkpoint cut short", 3.0, 0, 1), Cost("both", 0.0, 1)],
        [Cost("checkpoint cut short", 5.0, 0, 1, 4)],
    ]
    report = render_report(rounds, [])
    assert "| checkpoint cut short | 2 | 0 | 2 | 4 | 4.0 | 5.0 |" in report
    assert "| both | 1 | 1 | 0 | 0 | - | - |" in report
