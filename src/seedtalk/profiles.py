"""Profiles: named sets of parameter overrides, expanded to flags of ``dvc exp run``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from seedtalk.errors import InputError, at

# What an unquoted command substitution would split, expand or read as syntax.
_UNSAFE = re.compile(r"[\s*?~'\"\\$`;&|<>()]")


def overrides(path: Path) -> list[str]:
    """Return the ``key=value`` overrides of a profile, in the file's order.

    Raises
    ------
    InputError
        When the file is no YAML mapping, or a value cannot stand unquoted on a command line.
    """
    return [f"{key}={_plain(value, key, path)}" for key, value in leaves(path).items()]


def leaves(path: Path) -> dict[str, Any]:
    """Return the overrides of a profile by their dotted keys, in the file's order.

    Raises
    ------
    InputError
        When the file is no YAML mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file ({error})") from error
    if not isinstance(raw, Mapping):
        raise InputError(f"{path}: expected a mapping of overrides")
    return dict(_flatten(raw))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves += _flatten(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


def _plain(value: Any, key: str, path: Path) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_plain(part, key, path) for part in value) + "]"
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not text or _UNSAFE.search(text):
        raise InputError(
            f"{at(path, field=key)}: {text!r} cannot stand unquoted on a command line; "
            "set it in params.yaml instead"
        )
    return text
