"""Traced models as files: ONNX, run by onnxruntime without torch, and torch.export's ``.pt2``. Whole or not at all."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError, how_to_install
from common.files import atomic_path

SUFFIXES = (".onnx", ".pt2")
KEY = "zerolabel"  # of the legend in a file's metadata
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 20
AGREES = 0.99  # share of the pixels below which a file is not written

Run = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]  # a picture (1, 3, H, W) -> label map (H, W)


def check_path(path: Path, quantise: bool) -> None:
    """Before any work.

    Raises:
        UserError: another suffix, quantisation of what is not ONNX, or packages that are missing.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--output is '{path}'; it must end in {' or '.join(SUFFIXES)}.")
    if quantise and path.suffix != ".onnx":
        raise UserError(f"--quantise is onnxruntime's: give --output a name that ends in .onnx, not '{path}'.")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise UserError(f"ONNX needs {', '.join(missing)}: {how_to_install('export')}")


def write_model(
    program: torch.export.ExportedProgram,
    legend: dict[str, Any],
    path: Path,
    expected: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    quantise: bool = False,
) -> float:
    """Writes the file, runs it, and gives the share of the pixels of which it says what is expected.

    Args:
        program: traced.
        legend: plain values, found by :func:`read_legend` in what is written.
        path: with one of :data:`SUFFIXES`.
        expected: pictures (1, 3, H, W) and their label maps (H, W), uint8.
        quantise: weights of matrix products and convolutions as 8-bit integers; such a file is written whatever it says.

    Raises:
        UserError: it cannot be written, or says something else; no file is left then.
    """
    with atomic_path(path) as temporary:
        if path.suffix == ".pt2":
            torch.export.save(program, temporary, extra_files={KEY: json.dumps(legend)})
        else:
            _write_onnx(program, legend | {"quantised": quantise}, temporary, quantise)
        run = runner(temporary)
        same = [run(picture) == labels for picture, labels in expected]
        share = float(np.concatenate([one.ravel() for one in same]).mean())
        if share < AGREES and not quantise:
            raise UserError(
                f"the exported model agrees with the method on {share:.1%} of the pixels; '{path}' was not written."
            )
    return share


def runner(path: Path) -> Run:
    """Runs a file: ONNX on the CPU by onnxruntime, ``.pt2`` by torch."""
    if path.suffix == ".pt2":
        module: Any = torch.export.load(path).module()
        return lambda picture: module(torch.from_numpy(picture)).numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda picture: session.run(None, {"picture": picture})[0]


def read_legend(path: Path) -> dict[str, Any]:
    """The legend in a file."""
    if path.suffix == ".pt2":
        extra = {KEY: ""}
        torch.export.load(path, extra_files=extra)
        return dict(json.loads(extra[KEY]))
    import onnxruntime

    metadata = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    return dict(json.loads(metadata[KEY]))


def _write_onnx(program: torch.export.ExportedProgram, legend: dict[str, Any], path: Path, quantise: bool) -> None:
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    for talker in ("onnx_ir", "onnxscript", "torch.onnx", "root"):
        logging.getLogger(talker).setLevel(logging.ERROR)
    names = {"input_names": ["picture"], "output_names": ["labels"]}
    made = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, verbose=False, **names)  # type: ignore[arg-type]
    assert made is not None
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "model.onnx"
        made.save(whole)
        if quantise:
            graph = onnx.load(whole).graph
            fixed = {weight.name for weight in graph.initializer}
            computed = [node.name for node in graph.node if node.op_type == "Conv" and node.input[1] not in fixed]
            quantize_dynamic(whole, whole.with_name("small.onnx"), nodes_to_exclude=computed)  # it stops at those
            whole = whole.with_name("small.onnx")
        model = onnx.load(whole)
    onnx.helper.set_model_props(model, {KEY: json.dumps(legend)})
    onnx.save(model, path)
