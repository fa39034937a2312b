"""Landmark error of the network on real pairs while it trains, at whichever level it has reached."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.lungs import find_lungs, matched_boxes
from ProgressiveRegistrationLib.network.input import network_input, sample_on_grid, window_to_unit

from .config import Config, Pair
from .deformation import FINE, Lattice, look_up


@dataclass(frozen=True)
class PreparedPair:
    """A pair on the network's grids, each image in its own lung box, as ``register`` does. Landmarks: (n,
    3) LPS mm."""

    name: str
    images: torch.Tensor
    fixed_grid: Grid
    moving_grid: Grid
    fixed_points: np.ndarray
    moving_points: np.ndarray

    def tre(self, u: torch.Tensor) -> np.ndarray:
        """(n,) mm: |T(x) - y| for a field u (3, 128, 128, 128) in voxels."""
        index = self.fixed_grid.world_to_index(self.fixed_points)
        at = torch.from_numpy(index.T.astype(np.float32)).reshape(3, 1, 1, -1)
        moved = index + look_up(u.float().cpu(), Lattice(FINE), at).reshape(3, -1).T.numpy()
        return np.linalg.norm(self.moving_grid.index_to_world(moved) - self.moving_points, axis=1)

    @property
    def before(self) -> np.ndarray:
        """(n,) mm: |x - y|."""
        return np.linalg.norm(self.fixed_points - self.moving_points, axis=1)


def prepare_pair(config: Config, pair: Pair) -> PreparedPair:
    """Read a pair of the configuration. Its landmarks: CSV with fixed x, y, z and moving x, y,
    z in LPS mm after an id."""
    scans, images = [], []
    for role, text in (("fixed", pair.fixed), ("moving", pair.moving)):
        path = config.path(text)
        try:
            scans.append(sitk.ReadImage(str(path)))
        except RuntimeError as error:
            raise InputError(f"The {role} image of pair {pair.name}, {path}, cannot be read.") from error
    boxes = matched_boxes(
        *(find_lungs(scan, name=f"{pair.name}'s {i + 1}. image") for i, scan in enumerate(scans))
    )
    grids = [box.grid(FINE) for box in boxes]
    for image, grid in zip(scans, grids):
        if config.sampling.input == "gradient":
            images.append(network_input(image, grid, config.data.window, config.sampling.sigma))
        else:
            images.append(window_to_unit(torch.from_numpy(sample_on_grid(image, grid)), config.data.window))
    fixed, moving = read_points(config.path(pair.landmarks), set(pair.exclude))
    return PreparedPair(pair.name, torch.stack(images)[None], grids[0], grids[1], fixed, moving)


def read_points(path: Path, exclude: set[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) and (n, 3): columns 2-4 and 5-7 of a CSV with a header;
    rows whose first column is excluded are left out."""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]
        values = np.array([[float(v) for v in row[1:7]] for row in rows if row and row[0] not in exclude])
    except (OSError, ValueError) as error:
        raise InputError(f"The landmarks {path} cannot be read: {error}.") from error
    if values.ndim != 2 or values.shape[1] != 6:
        raise InputError(f"The landmarks {path} must have an id and six numbers in each row.")
    return values[:, :3], values[:, 3:]
