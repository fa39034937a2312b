"""Landmark error of the network on real pairs while it trains, at whichever level it has reached."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Box, Grid
from ProgressiveRegistrationLib.lungs import Lungs, find_lungs, matched_boxes
from ProgressiveRegistrationLib.network.input import network_input, sample_on_grid, window_to_unit

from .config import Config, TrainingPair, ValidationPair
from .deformation import FINE, Lattice, look_up
from .network import grid_shape, pool_to, resize
from .samples import COARSE_GAIN, Sample


@dataclass(frozen=True)
class PreparedPair:
    """A pair on the network's grids, each image in its own lung box, as ``register`` does. Landmarks: (n,
    3) LPS mm. The grids are those of 128 cells, whatever size the images have."""

    name: str
    images: torch.Tensor
    fixed_grid: Grid
    moving_grid: Grid
    fixed_points: np.ndarray
    moving_points: np.ndarray

    def tre(self, u: torch.Tensor) -> np.ndarray:
        """(n,) mm: |T(x) - y| for a field u (3, s, s, s) in voxels of the 128 grid."""
        index = self.fixed_grid.world_to_index(self.fixed_points)
        at = torch.from_numpy(index.T.astype(np.float32)).reshape(3, 1, 1, -1)
        x, y, z = u.shape[:0:-1]
        moved = index + look_up(u.float().cpu(), Lattice((x, y, z)), at).reshape(3, -1).T.numpy()
        return np.linalg.norm(self.moving_grid.index_to_world(moved) - self.moving_points, axis=1)

    @property
    def before(self) -> np.ndarray:
        """(n,) mm: |x - y|."""
        return np.linalg.norm(self.fixed_points - self.moving_points, axis=1)


def _read(config: Config, pair: ValidationPair | TrainingPair) -> tuple[list[sitk.Image], list[Lungs]]:
    """Fixed and moving image, and their lungs."""
    scans = []
    for role, text in (("fixed", pair.fixed), ("moving", pair.moving)):
        path = config.path(text)
        try:
            scans.append(sitk.ReadImage(str(path)))
        except RuntimeError as error:
            raise InputError(f"The {role} image of pair {pair.name}, {path}, cannot be read.") from error
    return scans, [find_lungs(scan, name=f"{pair.name}'s {i + 1}. image") for i, scan in enumerate(scans)]


def _inputs(config: Config, scans: list[sitk.Image], boxes: Sequence[Box]) -> torch.Tensor:
    """(1, 2, S, S, S): the network's input for two scans in their boxes."""
    images = []
    # As ``samples.as_input`` makes them: networks of up to 64^3 never see the full grid.
    nominal, shape = grid_shape(config.network.size)
    size, gain = (shape, 1.0) if nominal > 64 else (64, COARSE_GAIN)
    for image, grid in zip(scans, (box.grid(size) for box in boxes)):
        if config.sampling.input == "gradient":
            images.append(network_input(image, grid, config.data.window, config.sampling.sigma) * gain)
        else:
            images.append(window_to_unit(torch.from_numpy(sample_on_grid(image, grid)), config.data.window))
    return torch.stack(images)[None]


def prepare_pair(config: Config, pair: ValidationPair) -> PreparedPair:
    """Read a pair of the configuration. Its landmarks: CSV with fixed x, y, z and moving x, y,
    z in LPS mm after an id."""
    scans, lungs = _read(config, pair)
    boxes = matched_boxes(*lungs)
    grids = [box.grid(FINE) for box in boxes]
    fixed, moving = read_points(config.path(pair.landmarks), set(pair.exclude))
    return PreparedPair(pair.name, _inputs(config, scans, boxes), grids[0], grids[1], fixed, moving)


@dataclass(frozen=True)
class UnlabelledPair:
    """A real pair to train on: its input (1, 2, S, S, S), each image's lung (2, 64, 64, 64) in [0, 1], and
    the mm (x, y, z) of each image's 128 grid."""

    name: str
    images: torch.Tensor
    lungs: torch.Tensor
    spacings: tuple[tuple[float, float, float], tuple[float, float, float]]

    def sample(self, rng: np.random.Generator, side: int, target_side: int, lung_weight: float) -> Sample:
        """Either image fixed, mirrored or not; the target is not known, and zero."""
        order = [0, 1] if rng.random() < 0.5 else [1, 0]
        images, lung = self.images[:, order], self.lungs[None, None, order[0]]
        if rng.random() < 0.5:
            images, lung = images.flip(-1), lung.flip(-1)
        lung = pool_to(lung, target_side) if target_side < 64 else resize(lung, target_side)
        weight = 1 + (lung_weight - 1) * lung
        target = torch.zeros(1, 3, target_side, target_side, target_side)
        return Sample(pool_to(images, side), target, weight, lung, self.spacings[order[0]], self.name)


def prepare_unlabelled(config: Config, pair: TrainingPair) -> UnlabelledPair:
    """Read a pair of ``data.pairs``. Raises InputError or NoLungError."""
    scans, lungs = _read(config, pair)
    boxes = matched_boxes(*lungs)
    masks = [
        sitk.GetArrayFromImage(box.grid(64).resample(sitk.Cast(found.mask, sitk.sitkFloat32)))
        for box, found in zip(boxes, lungs)
    ]
    soft = torch.from_numpy(np.stack(masks)).clamp(0, 1)
    spacings: Any = tuple(tuple((box.extent / FINE).tolist()) for box in boxes)
    return UnlabelledPair(pair.name, _inputs(config, scans, boxes), soft, spacings)


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
