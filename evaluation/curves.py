"""Curves of a training run: its losses, and the validation's scores where there are some."""

from __future__ import annotations

import io

STEPS = 400  # points drawn of a curve; more are averaged


def draw_curves(curves: dict[str, list[tuple[int, float]]]) -> bytes:
    """A PNG; what training logged on the left, what the validation found on the right, each over steps."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in ("train", "val") if any(name.startswith(f"{kind}/") for name in curves)]
    figure = Figure(figsize=(4.4 * len(kinds), 2.8), layout="constrained", dpi=150)
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        for name, curve in curves.items():
            if name.startswith(f"{kind}/"):
                steps, values = zip(*thinned(curve), strict=True)
                axes.plot(steps, values, label=name, linewidth=1.2, marker="o" if len(steps) < 20 else None, markersize=3)
        axes.set_xlabel("step")
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def thinned(curve: list[tuple[int, float]], points: int = STEPS) -> list[tuple[int, float]]:
    """At most so many points, each the mean of consecutive ones."""
    size = -(-len(curve) // points)
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
