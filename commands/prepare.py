"""``zerolabel prepare``: the command around :mod:`datamodules.prepare`."""

from __future__ import annotations

import sys

import common.compat  # noqa: F401  (must come before lightning)

from jsonargparse import ArgumentParser

from commands.errors import plain_errors
from common.errors import UserError, known
from datamodules import DATAMODULES
from datamodules.labelled import OriginalFiles
from datamodules.prepare import prepare

USAGE = """usage: zerolabel prepare voc|context|coco|ade|cityscapes --root DIR [options]

Checks a download (published checksums, number of pictures, missing and broken files, sizes, label values) and converts
labels that are slow to read. It lists all faults at once and exits with 2 if there are any.
"""


def run(arguments: list[str]) -> int:
    """Runs ``NAME [options ...]``; returns the exit code."""
    found = {name.lower(): data for name, data in DATAMODULES.items() if issubclass(data, OriginalFiles)}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    name = known("data set", arguments[0], found)
    parser = ArgumentParser(prog=f"zerolabel prepare {name}", exit_on_error=False)
    parser.add_class_arguments(found[name], skip={"batch_size", "num_workers", "limit"})
    with plain_errors():
        data = found[name](**parser.parse_args(arguments[1:]).as_dict())
    faults = prepare(data)
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    if faults:
        addresses = "".join(f"\n  {archive:<40} {address}" for archive, (address, _) in data.published.archives.items())
        print(f"The data set is published as:{addresses}", file=sys.stderr)
        raise UserError(f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in '{data.root}', listed above.")
    print(f"'{data.root}' is complete: {len(data.pictures)} pictures of the split '{data.split}' with whole masks.")
    print(f"score on it with: --data {type(data).__name__} --data.root {data.root} --data.vocabulary {data.vocabulary.name}")
    return 0
