"""The strict base class of every configuration, and messages that say what is wrong with a value."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import ErrorDetails

from training.config.spelling import did_you_mean
from training.path_names import RULE, is_path_name

# What a value must be, by the type of pydantic's error; the fields come from the error's context.
_RULES = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "list_type": "a list ([a, b] or lines that start with -)",
    "too_short": "one entry or more",
    "finite_number": "finite",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "value_error": "{error}",  # from our own validators, whose messages continue after "must be"
}


class StrictModel(BaseModel):
    """Frozen, strict and without unknown keys: neither text nor a boolean is accepted as a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


def _check_path_name(name: str) -> str:
    if not is_path_name(name):
        raise ValueError(RULE)
    return name


PathName = Annotated[str, AfterValidator(_check_path_name)]
"""A name that becomes part of a path."""


def explain(details: ErrorDetails, name: str = "") -> str:
    """Return what is wrong with a value, to follow the name of its key (``must be an integer, but got 2.5``).

    Args:
        details: One of pydantic's errors.
        name: The key, where the value is to be shown as ``key=value``.
    """
    context, got = details.get("ctx", {}), shown(details["input"])
    if name:
        got = f"{name}={got}"
    if details["type"] in ("literal_error", "enum"):
        # The context has the choices only as a sentence: 'a', 'b' or 'c'.
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        hint = did_you_mean(str(details["input"]), choices)
        return f"must be one of {', '.join(choices)}, but got {got}. {hint}".rstrip(" .")
    if details["type"] not in _RULES:
        return f"{details['msg']}, but got {got}"
    ends = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
    return f"must be {_RULES[details['type']].format(**ends)}, but got {got}"


def shown(value: Any) -> str:
    """Return a value as it is written in a YAML file (``true``, ``null``, quotes around text)."""
    return json.dumps(value, default=repr)
