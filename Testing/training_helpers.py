"""A small chest that training tests share: fast to prepare, smooth, with two lungs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from progressive_training.cache import prepare
from ProgressiveRegistrationLib.geometry import Grid


def small_chest(seed: int = 0, spacing: float = 4.0) -> sitk.Image:
    """A body of soft tissue with two ellipsoidal lungs full of smooth blobs; int16 HU, 300 x 220 x 280 mm."""
    rng = np.random.default_rng(seed)
    grid = Grid((75, 55, 70), (spacing,) * 3, (-148.0, -108.0, -138.0))
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    hu = np.full(grid.shape, -1000.0, np.float32)
    hu[(x / 140) ** 2 + (y / 100) ** 2 < 1] = 40
    for side in (-62, 62):
        lung = ((x - side) / 48) ** 2 + (y / 70) ** 2 + (z / 115) ** 2 < 1
        blobs = np.zeros(grid.shape, np.float32)
        for cx, cy, cz in rng.uniform((-40, -60, -100), (40, 60, 100), (60, 3)):
            blobs += np.exp(-(((x - side - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * 6**2)))
        hu[lung] = np.minimum(-850 + 700 * blobs, 0)[lung]
    return grid.image(hu.astype(np.int16))


def prepared_chest(folder: Path, seed: int = 0) -> Path:
    """A prepared scan in ``folder``."""
    prepare(small_chest(seed), folder, f"chest {seed}")
    return folder


def write_chests(folder: Path, count: int = 1) -> Path:
    """``count`` chests as NRRD files."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        sitk.WriteImage(small_chest(seed), str(folder / f"chest{seed}.nrrd"))
    return folder
