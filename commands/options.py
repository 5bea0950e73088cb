"""Every command's options, and the words known for each: what ``zerolabel completion`` writes into its scripts.

Options are those of every method and datamodule together, as the config that says which one is used may not be written yet.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from inspect import Parameter, signature
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import common.compat  # noqa: F401  (must come before lightning)

import lightning

from backbones.attention import RULES
from commands.help import HELP_ALL
from commands.lightning import ZeroLabelCLI
from common.files import ROOT
from datamodules import DATAMODULES, DataModule
from datamodules.labelled import OriginalFiles
from evaluation import Protocol, Vocabulary
from evaluation.rules import ProtocolValues
from methods import METHODS
from reporting.exports import FORMATS

Options = dict[str, list[str]]  # option -> the words known for it; none: a file or anything


def options_of(command: str) -> Options:
    """The options of a command."""
    if command == "compare":
        found: Options = {"--config": shipped_configs(compare=True), "--output": [], "--devices": [], "--jobs": []}
    elif command == "choose":
        found = {"--images": [], "--classes": Vocabulary.known_names(), "--config": shipped_configs(compare=True)}
        found |= {"--protocol": Protocol.known_presets(), "--pictures": [], "--output": []}
    elif command == "report":
        found = {"--output": [], "--title": []}
    elif command == "export":
        found = {"--config": shipped_configs(compare=False), "--ckpt_path": ["last"], "--classes": Vocabulary.known_names()}
        found |= {"--output": [], "--quantise": ["true", "false"], "--model": sorted(METHODS)} | model_options()
    elif command == "prepare":
        found = _merged(_prefixed("", parameters(data)) for data in benchmarks().values())
        found = {o: words for o, words in found.items() if o not in ("--batch_size", "--num_workers", "--limit")}
    elif command == "serve":
        found = {"--port": [], "--config": shipped_configs(compare=False), "--model": sorted(METHODS), "--ckpt_path": []}
        found |= model_options()
    elif command in ZeroLabelCLI.subcommands():
        found = lightning_options(command)
    else:
        found = {}
    return {"--help": []} | found


def lightning_options(command: str) -> Options:
    """The options of fit, validate, test and predict."""
    of_command = parameters(lightning.Trainer, command)
    for not_an_option in (*ZeroLabelCLI.subcommands()[command], "return_predictions"):
        of_command.pop(not_an_option, None)
    data = _merged(_prefixed("--data.", parameters(cls)) for cls in DATAMODULES.values())
    scored_on = _merged(_prefixed("--data.scored_on.", parameters(cls)) for cls in benchmarks().values())
    found = {"--config": shipped_configs(compare=False), "--print_config": [], "--seed_everything": [], "--trainer": []} | {
        HELP_ALL: []
    }
    found |= {HELP_ALL: [], "--model": sorted(METHODS), "--data": sorted(DATAMODULES)} | _prefixed("", of_command)
    if command == "predict":
        found |= {"--images": [], "--classes": Vocabulary.known_names(), "--output": []}
        found |= {"--export": list(FORMATS), "--instances": ["true", "false"], "--min_area": [], "--unsure": []}
        found |= {"--smooth": [], "--tile": [], "--overlap": [], "--risk": [], "--risk_from": [], "--none_below": []}
    return found | model_options() | data | scored_on | _prefixed("--trainer.", parameters(lightning.Trainer))


def model_options() -> Options:
    """Those of all methods together."""
    rules = {name: _words(name, hint, ProtocolValues) for name, hint in get_type_hints(ProtocolValues).items()}
    found = _merged(_prefixed("--model.", parameters(cls)) for cls in METHODS.values())
    return found | _prefixed("--model.protocol_values.", rules)


def parameters(owner: type, method: str = "__init__") -> Options:
    """The parameters of a method and the words known for each, with those that ``**options`` hands to the parent class."""
    found: Options = {}
    for cls in owner.__mro__:
        if method not in vars(cls):
            continue
        function = vars(cls)[method]
        hints = get_type_hints(function)
        listed = signature(function).parameters
        kinds = {name: parameter.kind for name, parameter in listed.items() if name != "self"}
        hands_on = Parameter.VAR_KEYWORD in kinds.values()
        found = {n: _words(n, hints.get(n), cls) for n, k in kinds.items() if k is not Parameter.VAR_KEYWORD} | found
        if not hands_on:
            break
    return found


def shipped_configs(compare: bool) -> list[str]:
    """The shipped comparisons, or all other shipped configs but sweeps, by the names that work in any folder."""
    files = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
    return [str(f) for f in files if (f.parts[1] == "compare") == compare and f.parts[1] != "sweeps"]


def _words(name: str, hint: Any, owner: type) -> list[str]:
    """The words known for a parameter, by its name or else by its type."""
    named = {
        "rule": list(RULES),
        "protocol": Protocol.known_presets(),
        "vocabulary": list(getattr(owner, "label_spaces", [])),
        "classes": Vocabulary.known_names(),
        "ckpt_path": ["last"],
        "accelerator": ["auto", "cpu", "gpu"],
        "strategy": ["auto", "ddp", "fsdp"],
    }
    return named.get(name) or _choices(hint)


def _choices(hint: Any) -> list[str]:
    """``true false`` for bool, the values of a Literal, the datamodules' names for one of them; of a union, all parts'."""
    if hint is bool:
        return ["true", "false"]
    if isinstance(hint, type) and issubclass(hint, DataModule):
        return sorted(DATAMODULES)
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
    return list(dict.fromkeys(word for part in parts for word in _choices(part)))


def benchmarks() -> dict[str, type[DataModule]]:
    return {name.lower(): data for name, data in DATAMODULES.items() if issubclass(data, OriginalFiles)}


def _prefixed(prefix: str, options: Options) -> Options:
    return {f"{prefix or '--'}{name}": words for name, words in options.items()}


def _merged(several: Iterable[Options]) -> Options:
    """All options; the words of one that several have are put together."""
    found: Options = {}
    for options in several:
        for name, words in options.items():
            found[name] = list(dict.fromkeys([*found.get(name, []), *words]))
    return found
