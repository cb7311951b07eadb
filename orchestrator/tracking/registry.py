"""MLflow's model registry: one registered model per set of comparable results, its versions, and which of them is
champion.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.tracking.store import connect, tracking_uri
from search_spaces.section import did_you_mean
from training.cache import cache_dir

CHAMPION = "champion"
MODEL_FOLDER = "model"
WEIGHTS_FILE = "model.safetensors"
DATASET_TAG = "orchestrator.dataset"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Attributes:
        tags: What promotion wrote: the keys that must agree, the scores per seed, and the like.
    """

    name: str
    version: int
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: its dataset, and the version that each alias stands for."""

    name: str
    dataset: str
    aliases: Mapping[str, int]


def find_champion(name: str) -> ModelVersion | None:
    """Return the champion of a registered model, or None if there is none.

    Raises:
        OrchestratorError: The store does not answer.
    """
    for model in _list_models():
        if model.name == name and CHAMPION in model.aliases:
            return _get_version(name, model.aliases[CHAMPION])
    return None


def find_other_champions(dataset: str, name: str) -> list[ModelVersion]:
    """Return the champions of a dataset under other names: of other data, models, weights, recipes or protocols.

    Raises:
        OrchestratorError: The store does not answer.
    """
    others = [
        model
        for model in _list_models()
        if model.dataset == dataset and model.name != name and CHAMPION in model.aliases
    ]
    return [_get_version(model.name, model.aliases[CHAMPION]) for model in others]


def register_version(name: str, dataset: str, run_id: str, folder: Path, tags: Mapping[str, str]) -> ModelVersion:
    """Log a model folder with its run and register it; a run that is registered already keeps its version.

    Args:
        name: Of the registered model, made if there is none.
        dataset: By which the champion can be found.
        run_id: MLflow's id of the run that trained it.
        folder: What :func:`training.inference.predictor.save_model` wrote.
        tags: To be kept with the version.

    Raises:
        OrchestratorError: The store does not answer.
    """
    client = connect()
    if name not in {model.name for model in _list_models()}:
        client.create_registered_model(name, tags={DATASET_TAG: dataset})
    found = [known for known in client.search_model_versions(f"name = '{name}'") if known.run_id == run_id]
    if found:
        return _get_version(name, int(found[0].version))
    client.log_artifacts(run_id, str(folder), MODEL_FOLDER)
    source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL_FOLDER}"
    made = client.create_model_version(name, source, run_id, tags=dict(tags))
    return ModelVersion(name, int(made.version), run_id, dict(tags))


def set_champion(version: ModelVersion) -> None:
    """Make a version its model's champion.

    Raises:
        OrchestratorError: The store does not answer.
    """
    connect().set_registered_model_alias(version.name, CHAMPION, str(version.version))


def find_model(text: str) -> Path:
    """Return the folder of a model, fetched into the cache if it lies elsewhere.

    Args:
        text: As for :func:`resolve_model`.

    Raises:
        UserError: There is no such model.
        OrchestratorError: The store does not answer, or has lost the model's files.
    """
    found = resolve_model(text)
    return found if isinstance(found, Path) else _fetch(found)


def resolve_model(text: str) -> Path | ModelVersion:
    """Return what a user's word for a model stands for.

    Args:
        text: A folder, ``NAME@champion``, ``NAME/VERSION``, a registered model's name (its champion), or the name of a
            dataset that has just one champion.

    Raises:
        UserError: There is no such model, or the dataset has several champions; the message lists them.
        OrchestratorError: The store does not answer.
    """
    if (Path(text).expanduser() / WEIGHTS_FILE).is_file():
        return Path(text).expanduser()
    name, version = choose_version(text, _list_models())
    return _get_version(name, version)


def choose_version(text: str, models: Sequence[RegisteredModel]) -> tuple[str, int]:
    """Return the name and version that a text stands for among registered models.

    Raises:
        UserError: None, or more than one.
    """
    by_name = {model.name: model for model in models}
    name, at, alias = text.partition("@")
    if name in by_name and (at or not alias):
        return name, _aliased(by_name[name], alias or CHAMPION)
    head, slash, number = text.rpartition("/")
    if slash and head in by_name and number.isdecimal():
        return head, int(number)
    champions = [model for model in models if model.dataset == text and CHAMPION in model.aliases]
    if len(champions) == 1:
        return champions[0].name, champions[0].aliases[CHAMPION]
    if champions:
        raise UserError(
            f"model must be one, but got model={text!r}, a dataset with {len(champions)} champions: "
            f"{_listed(champions)}."
        )
    raise UserError(_no_such_model(text, models))


def _aliased(model: RegisteredModel, alias: str) -> int:
    if alias not in model.aliases:
        known = ", ".join(f"@{known}" for known in model.aliases) or "none"
        raise UserError(
            f"model must have the alias that is asked for, but got model={model.name}@{alias}. It has {known}."
        )
    return model.aliases[alias]


def _no_such_model(text: str, models: Sequence[RegisteredModel]) -> str:
    champions = [model for model in models if CHAMPION in model.aliases]
    if not champions:
        return (
            f"model must be a folder with {WEIGHTS_FILE} or a registered one, but got model={text!r}, and there is no "
            f"champion yet. "
            "Make one: orchestrator promote SWEEP"
        )
    words = {word: model for model in models for word in (model.name, model.dataset)}
    hint = f"{did_you_mean(text, words)} Champions: {_listed(champions)}.".lstrip()
    return f"model must be a folder with {WEIGHTS_FILE} or a registered one, but got model={text!r}. {hint}"


def _listed(models: Iterable[RegisteredModel]) -> str:
    return ", ".join(f"{model.name}@{CHAMPION}" for model in models)


def _list_models() -> list[RegisteredModel]:
    client = connect()
    models: list[RegisteredModel] = []
    token: str | None = None
    while True:
        page = client.search_registered_models(max_results=100, page_token=token)
        for model in page:
            aliases = {alias: int(version) for alias, version in dict(model.aliases).items()}
            models.append(RegisteredModel(model.name, dict(model.tags).get(DATASET_TAG, ""), aliases))
        token = page.token
        if not token:
            return models


def _get_version(name: str, version: int) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        found = connect().get_model_version(name, str(version))
    except MlflowException:
        raise UserError(f"model must have the version that is asked for, but got model={name}/{version}.") from None
    return ModelVersion(name, int(found.version), str(found.run_id), dict(found.tags))


def _fetch(version: ModelVersion) -> Path:
    location = str(connect().get_run(version.run_id).info.artifact_uri)
    if urlsplit(location).scheme in ("", "file"):
        folder = Path(unquote(urlsplit(location).path)) / MODEL_FOLDER
    else:
        folder = cache_dir() / "models" / version.run_id
        if not folder.exists():
            _download(version.run_id, folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise OrchestratorError(
            f"model {version} must have its files, but {folder} lacks {WEIGHTS_FILE}. Promote its sweep again."
        )
    return folder


def _download(run_id: str, folder: Path) -> None:
    from mlflow.artifacts import download_artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fetched = download_artifacts(
            artifact_uri=f"runs:/{run_id}/{MODEL_FOLDER}", dst_path=scratch, tracking_uri=tracking_uri()
        )
        # Renamed into place: a folder that is there is whole.
        shutil.move(fetched, folder)
