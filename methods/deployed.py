"""A method with its words and its protocol as one graph: a picture of any size -> its label map.

The graph is :meth:`evaluation.inference.Inference.label_map_in_graph`, traced by :mod:`torch.export`. Text
embeddings are constants in it; the text tower, and whatever else no picture passes through, is not part of it.
"""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from common import __version__
from common.errors import UserError
from common.weights import weights_hash
from evaluation.graph import largest_ratio
from methods.segmenter import Segmenter

EXAMPLE = (1, 3, 175, 200)  # traced with it; neither side stays in the graph


class Deployed(nn.Module):
    """What is deployed of a segmenter that has a vocabulary."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter.cpu().eval().requires_grad_(False)

    def forward(self, picture: Tensor) -> Tensor:
        """(1, 3, H, W) uint8 -> train ids (H, W) uint8."""
        return self.segmenter.inference.label_map_in_graph(picture[0]).labels


def graph_of(segmenter: Segmenter) -> torch.export.ExportedProgram:
    """Traces a segmenter that has a vocabulary.

    Raises:
        UserError: its method, its tower or a rule of its protocol cannot be part of a graph.
    """
    refuse(segmenter, why_not(segmenter))
    deployed = Deployed(segmenter)
    picture = torch.randint(256, EXAMPLE, dtype=torch.uint8)
    any_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        deployed(picture)  # what is found once and kept, such as which words are synonyms, is found before
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # of a failure it prints the whole graph
                program = torch.export.export(deployed, (picture,), dynamic_shapes=(any_size,))
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
            raise UserError(
                f"{type(segmenter).__name__} cannot be exported as it is set: torch.export says: {reason}"
            ) from error
    return without_unused_weights(program)


def refuse(segmenter: Segmenter, reason: str) -> None:
    """Raises a UserError if there is a reason not to export it."""
    if reason:
        raise UserError(f"{type(segmenter).__name__} cannot be exported: {reason}")


def why_not(segmenter: Segmenter) -> str:
    """Why a segmenter is not exported, with the way out where there is one; empty if nothing is known against it."""
    rules, decision = segmenter.protocol.windows, segmenter.protocol.decision
    if segmenter.no_graph:
        return segmenter.no_graph
    if decision.area_threshold:
        return "the protocol's area_threshold drops classes by what each picture shows; set it to 0."
    if decision.refine != "none":
        return f"the protocol's refine {decision.refine} is not part of a graph; set it to none."
    if rules.crop is None and segmenter.reads_positions:
        return "its network's positions depend on the size of what it reads; set the protocol's crop and stride."
    if rules.short_side < (rules.crop or 1):
        return (
            f"the protocol's short_side {rules.short_side} is less than a window; set it to {rules.crop or 'a size'} or more."
        )
    return ""


def without_unused_weights(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program without the values of weights that no operation reads."""
    inputs = program.graph_signature
    named = inputs.inputs_to_parameters | inputs.inputs_to_buffers
    for node in program.graph.nodes:
        if node.op == "placeholder" and not node.users and node.name in named:
            held: Any = program.state_dict if named[node.name] in program.state_dict else program.constants
            kind = type(held[named[node.name]])
            held[named[node.name]] = kind(torch.empty(0), requires_grad=False) if kind is nn.Parameter else torch.empty(0)
    return program


def legend(segmenter: Segmenter) -> dict[str, Any]:
    """What a file says about itself, as plain values: how to read its label maps, and what it was made of."""
    vocabulary = segmenter.vocabulary
    return {
        "names": list(vocabulary.names),
        "words": [list(words) for words in vocabulary.queries],
        "palette": vocabulary.palette.flatten().tolist(),
        "background": vocabulary.background,
        "largest_ratio": largest_ratio(segmenter.protocol.windows),
        "method": type(segmenter).__name__,
        "protocol": segmenter.protocol.content,
        "protocol_hash": segmenter.protocol.hash,
        "weights_hash": weights_hash(segmenter),
        "zerolabel": __version__,
    }
