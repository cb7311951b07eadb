"""The base of every part of a search space, and its errors: file, line, key, nearest valid key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, TypeAdapter, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from search_spaces.reader import Document, KeyPath, Scalar
from training.config.spelling import suggest
from training.config.strict import StrictModel, explain, shown

Checked = TypeVar("Checked")
Changed = TypeVar("Changed", bound="Section")


class Section(StrictModel):
    """A part of a search space; an unknown key is answered with the nearest valid one."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        # Before pydantic looks at them, because its own message names no nearest key.
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise fault(f"is not a valid key. {suggest(key, cls.model_fields)}", key)
        return {} if data is None else data  # ``search:`` with nothing under it


def fault(message: str, *key: str) -> PydanticCustomError:
    """Return the error of a validator.

    Args:
        message: What is wrong, as it follows the name of the key (``must ...``).
        key: Leads from the section being validated to the value at fault.
    """
    return PydanticCustomError("fault", "{message}", {"message": message, "key": key})


def check_section(section: type[Checked], document: Document) -> Checked:
    """Return a document's data as a section, or as a dict of sections.

    Raises:
        SpaceError: The data has another shape; of several faults, the first in the file is reported.
    """
    if not isinstance(document.data, dict):
        got = "nothing" if document.data is None else f"a {type(document.data).__name__}"
        raise document.error(
            (),
            f"the file must be a mapping (key: value), but got {got}. See `orchestrator spaces digits` for an example.",
        )
    try:
        return TypeAdapter(section).validate_python(document.data)
    except ValidationError as error:
        faults = [_located(details) for details in error.errors(include_url=False)]
    key, message = min(faults, key=lambda located: document.line(located[0]))
    raise document.error(key, f"{dotted(key)} {message}")


def change_section(section: Changed, values: Mapping[str, Scalar]) -> Changed:
    """Return a section with some of its values replaced.

    Raises:
        ValueError: A key does not exist, or a value is wrong; the message starts with the key.
    """
    try:
        return type(section).model_validate({**section.model_dump(), **values})
    except ValidationError as error:
        key, message = _located(error.errors(include_url=False)[0])
    raise ValueError(f"{dotted(key)} {message}")


def dotted(key: KeyPath) -> str:
    """Return the path of a key with dots between its parts."""
    return ".".join(str(part) for part in key) or "the file"


def _located(details: ErrorDetails) -> tuple[KeyPath, str]:
    key, context = details["loc"], details.get("ctx", {})
    if details["type"] == "fault":
        return (*key, *context["key"]), str(context["message"])
    if details["type"] == "missing":
        return key, "must be given"
    return key, explain(details)


def _check_scalar(value: Any) -> Scalar:
    if isinstance(value, list | dict):
        raise fault(f"must be a single value, but got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise fault(f"must be finite, but got {shown(value)}")
    return value  # type: ignore[no-any-return]  # a document has only these three kinds of value


def _check_number(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault(f"must be a number, but got {shown(value)}")
    if not math.isfinite(value):
        raise fault(f"must be finite, but got {shown(value)}")
    return value


# Plain validators, because pydantic reports one error for each member of a union.
ScalarValue = Annotated[Scalar, PlainValidator(_check_scalar)]
Number = Annotated[float | int, PlainValidator(_check_number)]
