"""Find, register and fetch models in MLflow's registry: one registered model per set of comparable results."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.redaction import redact
from orchestrator.sweep_folder.index import KIND_NOUNS, find_entry
from orchestrator.tracking.connection import all_pages, answering, is_missing, tracking_uri
from orchestrator.tracking.logged_model import link_version, log_model
from orchestrator.tracking.reading import read_sweep, read_sweeps
from orchestrator.tracking.run_tags import SWEEP_TAG
from training.cache import cache_dir
from training.config.spelling import did_you_mean
from training.path_names import require_path_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import model_registry

CHAMPION = "champion"
WEIGHTS_FILE = "model.safetensors"
DATASET_TAG = "orchestrator.dataset"
_ADVICE = "A model's own folder can be used without MLflow: orchestrator evaluate FOLDER"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Attributes:
        tags: What the promotion wrote: the keys that must agree, the scores per seed, and so on.
        source: URI of its folder: a logged model's, or, as earlier versions registered it, among its run's artifacts.
    """

    name: str
    version: int
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: its dataset, and the version behind each alias."""

    name: str
    dataset: str
    aliases: Mapping[str, int]


def find_champion(name: str) -> ModelVersion | None:
    """Return the champion of a registered model, or None if it has none.

    Raises:
        MlflowFailedError: MLflow does not answer.
    """
    with answering() as client:
        return _find_aliased(client, name)


def find_version_of(name: str, sweep_id: str) -> ModelVersion | None:
    """Return the version of a registered model that a promotion registered, or None.

    Raises:
        MlflowFailedError: MLflow does not answer.
    """
    with answering() as client:
        found = all_pages(lambda token: client.search_model_versions(f"name = '{name}'", page_token=token))
        versions = [version for version in map(_version, found) if version.tags.get(SWEEP_TAG) == sweep_id]
        return max(versions, key=lambda version: version.version, default=None)


def find_other_champions(dataset: str, name: str) -> list[ModelVersion]:
    """Return the champions of a dataset under other names: for other data, models, weights, recipes or protocols.

    Raises:
        MlflowFailedError: MLflow does not answer.
    """
    with answering() as client:
        others = [model for model in _list_models(client) if model.dataset == dataset and model.name != name]
        found = [_find_aliased(client, model.name) for model in others if CHAMPION in model.aliases]
        return [champion for champion in found if champion is not None]


def register_version(name: str, dataset: str, run_id: str, folder: Path, tags: Mapping[str, str]) -> ModelVersion:
    """Log a model folder with its run and register it; a run that is already registered keeps its version.

    Args:
        name: Name of the registered model, which is created if it does not exist.
        dataset: The dataset, by which the champion can be found.
        run_id: MLflow's id of the run that trained it.
        folder: What :func:`training.inference.predictor.save_model` wrote.
        tags: Kept with the version.

    Raises:
        MlflowFailedError: MLflow does not answer.
    """
    with answering() as client:
        # Created together with its tag: without the dataset's tag, the champion could not be found.
        if not any(model.name == name for model in _list_models(client)):
            client.create_registered_model(name, tags={DATASET_TAG: dataset})
        # A resumed promotion registers its run again; a second version would look like a second result.
        known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        if known:
            return _version(known[0])
        model = log_model(client, client.get_run(run_id), name, folder)
        # The place itself, not `models:/ID`, which MLflow would look up in whatever store is the process's default.
        made = client.create_model_version(
            name, model.artifact_location, run_id, tags=dict(tags), model_id=model.model_id
        )
        link_version(client, model, made)
        return _version(made)


def set_champion(version: ModelVersion) -> None:
    """Make a version its model's champion.

    Raises:
        MlflowFailedError: MLflow does not answer.
    """
    with answering() as client:
        client.set_registered_model_alias(version.name, CHAMPION, str(version.version))


def find_model(text: str) -> Path:
    """Return the folder of a model, which is fetched into the cache if it is elsewhere.

    Args:
        text: As for :func:`resolve_model`.

    Raises:
        UserError: No such model exists.
        OrchestratorError: MLflow does not answer, or has lost the model's files.
    """
    found = resolve_model(text)
    return found if isinstance(found, Path) else _fetch(found)


def resolve_model(text: str) -> Path | ModelVersion:
    """Return the model that the user's text names.

    Args:
        text: A folder, ``NAME@champion``, ``NAME/VERSION``, a registered model's name (its champion), or the name of a
            dataset that has just one champion.

    Raises:
        UserError: No such model exists, or the dataset has several champions; the message lists them.
        MlflowFailedError: MLflow does not answer.
    """
    # A folder comes first: it works without MLflow.
    if (Path(text).expanduser() / WEIGHTS_FILE).is_file():
        return Path(text).expanduser()
    with answering(_ADVICE) as client:
        models = _list_models(client)
        try:
            name, version = choose_version(text, models)
        except UserError:
            _refuse_lost(text, models)
            _refuse_sweep(text)
            raise
        try:
            return _version(client.get_model_version(name, str(version)))
        except Exception as error:
            if not is_missing(error):
                raise
            raise UserError(f"{name} has no version {version} in MLflow at {redact(tracking_uri())}.") from None


def _refuse_lost(text: str, models: Sequence[RegisteredModel]) -> None:
    """Say how to get a champion back that a promotion of this home registered and MLflow no longer has."""
    known = {model.name for model in models if CHAMPION in model.aliases}
    # The latest promotion comes first.
    for plan, state in read_sweeps({"promote"}):
        if state.champion is None or state.promotion is None or state.promotion.model in known:
            continue
        if re.split("[@/]", text)[0] in (state.promotion.model, plan.dataset):
            raise UserError(
                f"MLflow at {redact(tracking_uri())} has lost {state.promotion.model}@{CHAMPION}, which {plan.id} "
                f"registered. Register it again from its weights: orchestrator resume {plan.id}"
            )


def _refuse_sweep(text: str) -> None:
    """Say which model to name instead of a sweep or a trial, if the text names one."""
    head, slash, number = text.rpartition("/")
    entry = find_entry(head if slash and number.isdecimal() else text)
    if entry is None:
        return
    plan, state = read_sweep(entry.id)
    what = f"{text} is {'a trial' if head == entry.id else KIND_NOUNS[plan.kind]}, not a model."
    if plan.kind == "ablate":
        raise UserError(f"{what} The variants of an ablation are not registered.")
    if plan.kind == "race":
        raise UserError(f"{what} Continue its promotion: orchestrator resume {entry.id}")
    if plan.kind != "promote":
        raise UserError(f"{what} Register its best trial as one: orchestrator promote {entry.id}")
    if state.champion is not None:
        raise UserError(f"{what} It registered {state.champion.version}: name that.")
    if state.is_concluded:
        raise UserError(f"{what} It registered none, because the champion was not beaten.")
    raise UserError(f"{what} It is not concluded yet: orchestrator resume {entry.id}")


def choose_version(text: str, models: Sequence[RegisteredModel]) -> tuple[str, int]:
    """Return the name and version of the registered model that a text names.

    Raises:
        UserError: No model has that name, or the name is ambiguous.
    """
    # Try from the most specific name to the least specific: a version, a model, a dataset.
    by_name = {model.name: model for model in models}
    # NAME@ALIAS; a bare name stands for its champion.
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
        raise UserError(f"{text} is a dataset with {len(champions)} champions: {_listed(champions)}. Name one of them.")
    raise UserError(_no_such_model(text, models))


def _aliased(model: RegisteredModel, alias: str) -> int:
    if alias not in model.aliases:
        known = ", ".join(f"@{known}" for known in model.aliases) or "none"
        raise UserError(f"{model.name} has no alias @{alias}. Its aliases: {known}.")
    return model.aliases[alias]


def _no_such_model(text: str, models: Sequence[RegisteredModel]) -> str:
    champions = [model for model in models if CHAMPION in model.aliases]
    if not champions:
        return (
            f"{text!r} is not a folder with {WEIGHTS_FILE}, and no model is registered yet. Make one: "
            "orchestrator sweep digits, then orchestrator promote"
        )
    # Either word may be mistyped.
    words = {word: model for model in models for word in (model.name, model.dataset)}
    hint = f"{did_you_mean(text, words)} Champions: {_listed(champions)}.".lstrip()
    return f"{text!r} is neither a folder with {WEIGHTS_FILE} nor a registered model. {hint}"


def _listed(models: Iterable[RegisteredModel]) -> str:
    return ", ".join(f"{model.name}@{CHAMPION}" for model in models)


def _list_models(client: MlflowClient) -> list[RegisteredModel]:
    found = all_pages(lambda token: client.search_registered_models(max_results=100, page_token=token))
    return [
        RegisteredModel(
            model.name,
            dict(model.tags).get(DATASET_TAG, ""),
            {alias: int(version) for alias, version in dict(model.aliases).items()},
        )
        for model in found
    ]


def _find_aliased(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return _version(client.get_model_version_by_alias(name, CHAMPION))
    except Exception as error:
        if is_missing(error):
            return None
        raise


def _version(found: model_registry.ModelVersion) -> ModelVersion:
    return ModelVersion(found.name, int(found.version), str(found.run_id), dict(found.tags), str(found.source))


def _fetch(version: ModelVersion) -> Path:
    with answering(_ADVICE):
        # Artifacts on this machine are used in place; a copy in the cache would only waste disk space.
        if urlsplit(version.source).scheme in ("", "file"):
            folder = Path(unquote(urlsplit(version.source).path))
        else:
            # A run has one model, which never changes, so its id is a safe name in the cache.
            folder = cache_dir() / "models" / require_path_name(version.run_id, "The id of a run in MLflow")
            if not folder.exists():
                _download(version.source, folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise OrchestratorError(f"{folder} of {version} has no {WEIGHTS_FILE}. Promote its sweep again.")
    return folder


def _download(source: str, folder: Path) -> None:
    from mlflow.artifacts import download_artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fetched = download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=tracking_uri())
        # Moved into place at the end, so that a folder in the cache is always complete.
        shutil.move(fetched, folder)
