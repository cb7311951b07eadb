"""Prints the small table that explains a promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cli.output import print_line, print_table

if TYPE_CHECKING:
    from orchestrator.sweep_folder.promotion_report import PromotionReport


def print_report(report: PromotionReport) -> None:
    """Print a promotion's figures, each with its interval over seeds and where it comes from."""
    rows = report.rows()
    if rows:
        print_line(f"rule: {report.rule}; figures in percent")
        print_table(["figure", "mean", "95 % interval", "over"], rows, right=[1], wrapped=[3])
