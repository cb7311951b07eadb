"""Load a promoted model for ``mlflow.pyfunc.load_model`` and ``mlflow models``; MLflow imports this module by its name.

A model's folder has no code and no pickle: MLflow calls this module of the installed program, which reads safetensors
and JSON. So the program must be installed where the model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from training.inference.predictor import Predictor

IMAGE_COLUMN = "image"
"""The column of the input: each image as the content of its file, in any format that Pillow reads."""


class ServedModel:
    """Scores images in the form that MLflow passes them on."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one row per image: the score of each class in 0-1.

        Args:
            model_input: The column ``image`` with the bytes of image files.
            params: MLflow passes them; there are none.

        Raises:
            ValueError: An image cannot be read.
        """
        import pandas as pd

        scores = self._predictor.score_images(list(model_input[IMAGE_COLUMN]))
        return pd.DataFrame(scores.double().numpy(), columns=list(self._predictor.classes))


def _load_pyfunc(path: str) -> ServedModel:
    """Load a model's folder; the name is MLflow's."""
    from training.inference.predictor import Predictor

    return ServedModel(Predictor.load(Path(path)))
