"""What an audit finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something that does not hold.

    Attributes:
        kind: One word for scripts, such as ``ledger`` or ``dirty``.
        where: The file, the run or the row.
        problem: What is wrong, as a sentence without its full stop.
        fix: What to do, as a sentence without its full stop.
    """

    kind: str
    where: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}. {self.fix}."


@dataclass
class Report:
    """The result of an audit.

    Attributes:
        checked: What was compared -> how many times.
        unchecked: What could not be compared here, and why, as sentences.
    """

    findings: list[Finding] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)

    def find(self, kind: str, where: str, problem: str, fix: str) -> None:
        """Add a finding, unless it is known."""
        finding = Finding(kind, where, problem, fix)
        if finding not in self.findings:
            self.findings.append(finding)

    def count(self, what: str, num: int = 1) -> None:
        """Count what was compared."""
        self.checked[what] = self.checked.get(what, 0) + num

    def skip(self, why: str) -> None:
        """Note what could not be compared."""
        if why not in self.unchecked:
            self.unchecked.append(why)

    def to_json(self) -> dict[str, Any]:
        """Return what ``audit --json`` prints."""
        return {
            "findings": [vars(finding) for finding in self.findings],
            "checked": self.checked,
            "unchecked": self.unchecked,
        }


def name_all(words: Iterable[object], most: int = 6) -> str:
    """Return words as a list in a sentence, cut after a few."""
    listed = [str(word) for word in words]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
