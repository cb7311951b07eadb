"""What an audit found, in short."""

from __future__ import annotations

from orchestrator.audit.audit import Audit


def kinds(found: Audit) -> list[str]:
    """Return the kinds of the findings, each once."""
    return sorted({finding.kind for finding in found.report.findings})
