"""The figures of the documentation, from the made-up chest and the shipped configuration.

python docs/_site/figures.py            # all of them, into docs/figures
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
import torch
import yaml
from PIL import Image
from progressive_training.schedule import Schedule
from ProgressiveRegistrationLib import breathing_thorax, register
from ProgressiveRegistrationLib.network.input import network_input
from ProgressiveRegistrationLib.quality import tre

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
ORANGE, BLUE, INK = "#e8743b", "#2f6db3", "#333333"
WINDOW = (-1000, 200)
plt.rcParams.update({"font.size": 9, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK})


def grey(image: sitk.Image) -> np.ndarray:
    """(z, y, x) in [0, 1] of HU."""
    hu = sitk.GetArrayFromImage(image).astype(float)
    return np.clip((hu - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1)


def fusion(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(.., 3): fixed orange, moving blue; grey where they agree."""
    return np.stack([fixed, (fixed + moving) / 2, moving], -1)


def coronal(volume: np.ndarray, y: int) -> np.ndarray:
    return volume[::-1, y]


def show(axes: plt.Axes, picture: np.ndarray, title: str, aspect: float, **how) -> None:
    axes.imshow(picture, aspect=aspect, interpolation="bilinear", **how)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def registered() -> dict:
    """The pair of seed 0, 30 mm, and what the network and the whole road make of it."""
    pair = breathing_thorax(0, amplitude=30.0)
    results = {preset: register(pair.fixed, pair.moving, preset=preset) for preset in ("fast", "balanced")}
    errors = {"before": np.linalg.norm(pair.fixed_landmarks.points - pair.moving_landmarks.points, axis=1)}
    for preset, result in results.items():
        errors[preset] = tre(result.field, pair.fixed_landmarks.points, pair.moving_landmarks.points)
    return {"pair": pair, "results": results, "errors": errors}


def before_after(made: dict) -> None:
    """The opening picture: both scans in two colours, as they come and registered."""
    pair, result = made["pair"], made["results"]["balanced"]
    fixed, moving = grey(pair.fixed), grey(pair.moving)
    warped = grey(result.field.warp_image(pair.moving, pair.fixed))
    spacing = pair.fixed.GetSpacing()
    y = int(0.55 * fixed.shape[1])
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.1), facecolor="white")
    for place, second, when in ((axes[0], moving, "before"), (axes[1], warped, "balanced")):
        error = made["errors"][when].mean()
        title = f"{'before' if when == 'before' else 'registered'}: landmarks {error:.1f} mm apart"
        show(
            place,
            fusion(coronal(fixed, y), coronal(second, y)),
            title,
            spacing[2] / spacing[0],
        )
    figure.text(0.5, 0.03, "orange: exhale (fixed)   blue: inhale (moving)   grey: they agree", ha="center")
    figure.subplots_adjust(0.01, 0.08, 0.99, 0.93, 0.03)
    figure.savefig(FIGURES / "before-after.png", dpi=110)
    plt.close(figure)


def pipeline(made: dict) -> None:
    """Box, gradient magnitude, network, refinement, in one coronal cut."""
    pair, results = made["pair"], made["results"]
    result = results["balanced"]
    fixed, moving = grey(pair.fixed), grey(pair.moving)
    spacing = pair.fixed.GetSpacing()
    aspect = spacing[2] / spacing[0]
    y = int(0.55 * fixed.shape[1])
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), facecolor="white")
    lower_left = np.asarray(pair.fixed.GetOrigin())
    for row, (volume, box, name) in enumerate(
        ((fixed, result.boxes[0], "fixed"), (moving, result.boxes[1], "moving"))
    ):
        show(axes[row, 0], coronal(volume, y), f"1. lung box ({name})", aspect, cmap="gray", vmin=0, vmax=1)
        x0, x1 = ((c[0] - lower_left[0]) / spacing[0] for c in (box.lower, box.upper))
        z0, z1 = ((c[2] - lower_left[2]) / spacing[2] for c in (box.lower, box.upper))
        height = volume.shape[0] - 1
        axes[row, 0].add_patch(
            plt.Rectangle(
                (x0, height - z1), x1 - x0, z1 - z0, fill=False, edgecolor=(ORANGE, BLUE)[row], lw=2
            )
        )
        scan = (pair.fixed, pair.moving)[row]
        edges = network_input(scan, box.grid(128), (-1000.0, -100.0), 0.5)
        show(
            axes[row, 1],
            np.asarray(torch.as_tensor(edges))[::-1, 70],
            f"2. gradient magnitude ({name})",
            1.0,
            cmap="magma",
        )
    for column, preset, name in ((2, "fast", "3. network"), (3, "balanced", "4. refined")):
        field = results[preset].field
        warped = grey(field.warp_image(pair.moving, pair.fixed))
        show(axes[0, column], fusion(coronal(fixed, y), coronal(warped, y)), name, aspect)
        grid = field.grid
        middle = grid.shape[1] // 2
        step = np.linalg.norm(field.displacement[:, middle], axis=-1)[::-1]
        picture = axes[1, column].imshow(
            step, cmap="viridis", vmin=0, vmax=40, aspect=grid.spacing[2] / grid.spacing[0]
        )
        axes[1, column].set_axis_off()
        axes[1, column].set_title(f"field: landmarks {made['errors'][preset].mean():.1f} mm off", fontsize=9)
    bar = figure.colorbar(picture, ax=axes[1, 2:], fraction=0.05, pad=0.02)
    bar.set_label("displacement, mm")
    figure.savefig(FIGURES / "pipeline.png", dpi=110, bbox_inches="tight")
    plt.close(figure)


def progressive() -> None:
    """The levels that take part, and their weights, over the iterations of ``shipped-width8.yaml``."""
    content = yaml.safe_load((ROOT / "Training" / "configs" / "shipped-width8.yaml").read_text())["schedule"]
    schedule = Schedule.stages(content["plateau"], content["transition"])
    iterations = np.arange(content["iterations"])
    alpha = np.array([schedule.alpha(float(k)) for k in iterations])
    names = ["8³", "16³", "32³", "64³", "128³"]
    colours = plt.get_cmap("YlOrRd")(np.linspace(0.35, 0.95, len(names)))
    figure, (top, below) = plt.subplots(
        2, 1, figsize=(9, 4.6), facecolor="white", gridspec_kw={"height_ratios": [1.25, 1]}
    )
    for at, name in enumerate(names):  # the U of the levels that take part, coarsest at its bottom
        for level in range(at + 1):
            half = 0.1 + 0.075 * level
            x = at + np.array([-half, half])
            top.plot(x, [level + 0.5] * 2, color="#c4c4c4", lw=1, zorder=0)
            for side in x:
                top.plot([side] * 2, [level + 0.12, level + 0.88], color=colours[level], lw=6)
                top.lines[-1].set_solid_capstyle("butt")
        top.text(at, -0.55, f"{name} cells", ha="center", color=colours[at], fontweight="bold")
    top.set_xlim(-0.55, len(names) - 0.45)
    top.set_ylim(-0.8, len(names))
    top.set_axis_off()
    top.set_title("The network grows: each level is put around those that are there already", fontsize=9)
    for level, name in enumerate(names):
        below.plot(iterations, alpha[:, level], color=colours[level], lw=2, label=name)
        middle = iterations[alpha[:, level] > 0.5].mean()
        below.text(middle, 1.06, name, ha="center", color=colours[level], fontweight="bold")
    below.set_xlim(-400, content["iterations"] + 400)
    below.set_ylim(0, 1.22)
    below.set_xlabel("iteration (shipped-width8.yaml)")
    below.set_ylabel("weight in the output")
    below.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FIGURES / "progressive.png", dpi=110)
    plt.close(figure)


def smaller(name: str) -> None:
    """256 colours are enough, and a third of the size."""
    path = FIGURES / name
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> int:
    FIGURES.mkdir(exist_ok=True)
    progressive()
    made = registered()
    before_after(made)
    pipeline(made)
    for name in ("before-after.png", "pipeline.png"):
        smaller(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
