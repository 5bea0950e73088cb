"""What the parent of forked test processes imports once, for all of them (:mod:`tests.processes`)."""

import common.compat  # noqa: F401  (must come before what imports torchvision)

import lightning
import open_clip
import transformers

import cli
import commands.compare
import commands.lightning
import datamodules
import methods
import reporting.recorder

__all__ = ["cli", "commands", "datamodules", "lightning", "methods", "open_clip", "reporting", "transformers"]
