"""The command's options for a run, made from the fields of `RunConfig`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from motet.config import RunConfig
from motet.errors import UsageError
from motet.option_kinds import Kind, flag_of, refusal


def add_config_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options that a subcommand takes; what is not given is None."""
    for field in _fields(command):
        kind: Kind = field.metadata["kind"]
        names: dict[str, Any] = {"dest": field.name, "default": None, "help": field.metadata["help"]}
        if kind.switch:
            parser.add_argument(flag_of(field), action="store_true", **names)
            continue
        names |= {"metavar": field.metadata["metavar"], "type": _parse(field), "choices": kind.choices}
        parser.add_argument(flag_of(field), action="append" if kind.repeats else "store", **names)


def given_options(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Return what of these options the user gave, as keywords of `RunConfig`."""
    values = {field.name: getattr(options, field.name) for field in _fields(command)}
    return {name: value for name, value in values.items() if value is not None}


def _fields(command: str) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(RunConfig) if command in field.metadata["of"]]


def _parse(field: dataclasses.Field[Any]) -> Callable[[str], Any]:
    """Return what reads the text of an option, with a message that names the option as it was given."""
    kind: Kind = field.metadata["kind"]

    def parse(text: str) -> Any:
        if kind.choices is not None:
            return text  # argparse refuses a wrong one
        try:
            value = kind.parse(text)
            return value if kind.repeats else kind.accept(value)
        except ValueError:
            raise UsageError(refusal(field, flag_of(field), text)) from None

    return parse
