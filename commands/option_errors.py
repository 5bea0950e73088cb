"""What jsonargparse says of options, in one line: the option, its value, and what it may be."""

from __future__ import annotations

import importlib
import re

import common.compat  # noqa: F401  (must come before lightning)

from jsonargparse import ArgumentParser

import datamodules
import methods
from common.errors import UserError, known
from evaluation.rules import RULES

GIVE = ": give a config, such as --config configs/training_free/sclip.yaml, or a name that 'zerolabel list' shows."
NOISE = ("Expected a <class 'NoneType'>", "Subtypes:", "Given value", "Does not validate", "Errors:", "Expected a path but")
WRITTEN = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping, '{key: value}'",
    "list": "a list, '[value, value]'",
}


def explain(message: str) -> str:
    """One line for jsonargparse's message.

    Raises:
        UserError: an unknown class, option, rule or choice, answered with the known ones.
    """
    if missing := re.search(r"arguments are required: (.*)", message):
        return _missing(re.split(r",\s*", missing[1].strip()))
    option = ".".join(re.findall(r'arser key "([\w.]+)":', message)).removeprefix("plan.")
    class_path = re.findall(r"given class_path '([\w.]+)'", message)
    _check_names(message, option, class_path[-1] if class_path else "")
    expected = dict.fromkeys(re.findall(r"Expected (?:a )?<class '(\w+)'>", message))
    kinds = [WRITTEN[kind] for kind in expected if kind in WRITTEN]
    given = re.search(r"(?:Got value|Given value): (.*)", message)
    if kinds and given:
        return f"{option}: {given[1].strip()!r} is not {' or '.join(kinds)}."
    if message.startswith("unrecognized arguments: "):
        return f"unknown option {message.partition(': ')[2].strip()}; --help and --help_all list what there is."
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith(NOISE))
    said = re.sub(r'[Pp]arser key "[\w.]+": |Problem with given class_path \'[\w.]+\': ', "", said)
    return f"{option}: {said}"[:500] if option else said[:500]


def _missing(names: list[str]) -> str:
    """Of options without a value: how to give a method and its data, or where to read on."""
    parts = sorted({"model", "data"} & {name.rpartition(".")[2] for name in names}, reverse=True)
    absent = [_option(name) for name in parts or names]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing{GIVE if parts else '; see --help.'}"


def _option(name: str) -> str:
    """As it is written: ``--images`` on a command line, ``title`` in a comparison's file."""
    return name.removeprefix("plan.") if "." in name else f"--{name}"


def _check_names(message: str, option: str, class_path: str) -> None:
    """Raises a UserError for a name that nothing has, with those that there are."""
    key = option.rpartition(".")[2]
    if (name := re.search(r"Expected a dot import path string: (\w+)", message)) and key in ("model", "data"):
        kind, names = ("method", methods.METHODS) if key == "model" else ("datamodule", datamodules.DATAMODULES)
        known(kind, name[1], names)
    if name := re.search(r"Option '([\w.]+)' is not accepted", message):
        known(f"option of {class_path.rpartition('.')[2]}", name[1], _options_of(class_path))
    if (name := re.search(r"Unexpected keys: \{'(\w+)'", message)) and key == "protocol_values":
        known("rule of a protocol", name[1], RULES)
    if chosen := re.search(r"Expected a typing\.Literal\[([^\]]*)\]\. Got value: (\S+)", message):
        known(key, chosen[2].rstrip("."), re.findall(r"'([^']*)'", chosen[1]))
    if class_path and (name := re.search(r"Key must be a string, got: (\S+)\.", message)):
        raise UserError(
            f"{option}: an option that {class_path.rpartition('.')[2]} does not have was given a mapping "
            f"with the key {name[1]}. It has {', '.join(_options_of(class_path))}."
        )


def _options_of(class_path: str) -> list[str]:
    """Names of the options of a class, those that it hands to its parents among them."""
    module, _, name = class_path.rpartition(".")
    names = ArgumentParser().add_class_arguments(getattr(importlib.import_module(module), name), "its")
    return sorted({each.removeprefix("its.") for each in names})
