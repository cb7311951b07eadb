from __future__ import annotations

from pathlib import Path

from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.checkpoints import checkpoint_uri
from tests.kit.sweeps import make_sweep


def test_checkpoints_lie_with_the_sweep_or_under_its_id_in_the_storage(tmp_path: Path) -> None:
    assert checkpoint_uri(make_sweep()) == str(sweep_dir("digits-00000001") / "checkpoints")
    assert checkpoint_uri(make_sweep("digits-00000002", storage="s3://bucket/x/")) == "s3://bucket/x/digits-00000002"
