"""Makes docs/photographs.jpg: photographs that scikit-image brings, and what `predict` with the packaged tower says of them.

``pip install scikit-image``, then ``python docs/photographs.py``. The cat (Stefan van der Walt) and the coffee (Rachel
Michetti) are CC0; NASA's astronaut and SpaceX's rocket are in the public domain, as scikit-image's documentation says.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
PICTURES = ["chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png"]
CLASSES = "cat; cup, mug; rocket; person, woman; table, wood; sky"
HEIGHT = 220
GAP = 6


def brought() -> Path:
    """The folder of scikit-image's pictures, found without importing the package."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        raise SystemExit("scikit-image is missing: pip install scikit-image")
    return Path(found.origin).parent / "data"


def sheet(columns: list[tuple[Image.Image, Image.Image]]) -> Image.Image:
    """Pictures above their overlays, all of one height."""
    widths = [round(picture.width * HEIGHT / picture.height) for picture, _ in columns]
    low = max(round(overlay.height * width / overlay.width) for (_, overlay), width in zip(columns, widths, strict=True))
    page = Image.new("RGB", (sum(widths) + GAP * (len(widths) - 1), HEIGHT + GAP + low), "white")
    left = 0
    for (picture, overlay), width in zip(columns, widths, strict=True):
        page.paste(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS), (left, 0))
        height = round(overlay.height * width / overlay.width)
        page.paste(overlay.resize((width, height), Image.Resampling.LANCZOS), (left, HEIGHT + GAP))
        left += width + GAP
    return page


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        pictures, out = Path(folder) / "pictures", Path(folder) / "out"
        pictures.mkdir()
        for name in PICTURES:
            shutil.copy(brought() / name, pictures)
        command = ["predict", "--images", str(pictures), "--classes", CLASSES, "--output", str(out)]
        subprocess.run([sys.executable, str(ROOT / "cli.py"), *command], check=True)
        files = [(pictures / name, out / "overlays" / f"{name}.png") for name in PICTURES]
        sheet([(Image.open(a).convert("RGB"), Image.open(b).convert("RGB")) for a, b in files]).save(
            ROOT / "docs" / "photographs.jpg", quality=88
        )
