"""Runs what `zerolabel export` wrote, without torch: python run_exported.py model.onnx picture.jpg [picture.jpg ...]

Needs numpy, Pillow and onnxruntime. Writes picture_labels.png, an index picture in the classes' colours, and prints areas.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, *pictures = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
legend = json.loads(session.get_modelmeta().custom_metadata_map["zerolabel"])
for path in map(Path, pictures):
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if max(picture.size) > legend["largest_ratio"] * min(picture.size):
        sys.exit(f"{path} is too long: {picture.width} x {picture.height}; at most {legend['largest_ratio']:.1f} : 1.")
    (labels,) = session.run(None, {"picture": np.asarray(picture).transpose(2, 0, 1)[None]})
    coloured = Image.fromarray(labels)
    coloured.putpalette(legend["palette"])
    coloured.save(path.with_name(f"{path.stem}_labels.png"))
    areas = {legend["names"][k]: float((labels == k).mean()) for k in np.unique(labels)}
    print(f"{path}: " + ", ".join(f"{name} {area:.1%}" for name, area in areas.items()))
