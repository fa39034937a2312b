"""How lungs of real patients move once their boxes are matched, so that training samples can move alike.

A 4DCT registered by ``progressive-registration sequence`` gives a field from its reference to each phase.
What the matched lung boxes leave of each is written in T2,1's control points (paper, Table I), and the
fields' principal directions are the modes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.files import write_text
from ProgressiveRegistrationLib.geometry import Box
from ProgressiveRegistrationLib.lungs import find_lungs, matched_boxes

from .deformation import FINE, TABLE_I, Lattice, identity, nearest_control

MODES = 3
VERSION = 1
POINTS = TABLE_I["t21"].grid
SIDE = 32  # cells of the lattice on which a field is read off
BESIDE_LUNG = 0.05  # weight of what is no lung, against 1: holds the control points that no lung reaches


@dataclass(frozen=True)
class Modes:
    """How lungs move.

    modes : (k, 3, n, n, n) control values in fine voxels [component x y z; z, y, x], each as large as its
        part of a field is on the average (root of the mean square).
    explained : the share of the fields' squares that they make.
    residual_mm : of each field after box matching, the 95th percentile in the lung.
    """

    modes: np.ndarray
    explained: float
    residual_mm: tuple[float, ...]


def left_by_boxes(
    field: DisplacementField, fixed: Box, moving: Box, lung: sitk.Image
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a pair of boxes leaves of a field, (3, s, s, s) in fine voxels (x, y, z), and where the lung is,
    (s, s, s), on a lattice over the fixed box.

    lung : mask of the fixed image. The field maps fixed to moving, LPS mm.
    """
    index = np.moveaxis(identity(Lattice(SIDE)).numpy().astype(float), 0, -1)
    mapped = field.warp_points(fixed.grid(FINE).index_to_world(index))
    u = np.moveaxis(moving.grid(FINE).world_to_index(mapped) - index, -1, 0)
    inside = (
        sitk.GetArrayFromImage(fixed.grid(SIDE).resample(lung, interpolator=sitk.sitkNearestNeighbor)) > 0
    )
    return torch.from_numpy(np.ascontiguousarray(u, np.float32)), torch.from_numpy(inside).float()


def principal(controls: Sequence[torch.Tensor], count: int = MODES) -> tuple[np.ndarray, float]:
    """(count, 3, n, n, n) and the share of the squares that they explain.

    The reference's own field, zero, is one of the set, so nothing is taken off: a breath goes out from it.
    """
    rows = np.stack([c.numpy().ravel() for c in controls]).astype(float)
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    count = min(count, len(sizes))
    modes = directions[:count] * (sizes[:count, None] / np.sqrt(len(rows)))
    explained = float((sizes[:count] ** 2).sum() / max((sizes**2).sum(), 1e-12))
    return modes.reshape(count, *controls[0].shape), explained


def modes_of(sequences: Sequence[str | os.PathLike], report: Callable[[str], None] = print) -> Modes:
    """From folders that ``sequence`` wrote.

    Raises
    ------
    InputError : no such folder, or a file of it is gone.
    """
    from ProgressiveRegistrationLib.sequence.steps import read_result

    controls, left = [], []
    for folder in map(Path, sequences):
        told, phases = read_result(folder)
        by_name = {phase.name: phase for phase in phases}
        reference = by_name[told["reference"]]
        fixed = find_lungs(reference.image(), mask=reference.lung_mask(), name=reference.name)
        for phase in phases:
            if phase is reference:
                continue
            moving = find_lungs(phase.image(), mask=phase.lung_mask(), name=phase.name)
            boxes = matched_boxes(fixed, moving)
            # Files lie where the folder lies now, wherever it was written.
            field = DisplacementField.read(folder / Path(told["outputs"][f"field_{phase.name}"]).name)
            u, lung = left_by_boxes(field, *boxes, fixed.mask)
            spacing = torch.tensor(boxes[0].extent / FINE).view(3, 1, 1, 1)
            left.append(float(torch.quantile((u * spacing).norm(dim=0)[lung > 0], 0.95)))
            controls.append(nearest_control(u, lung + BESIDE_LUNG, POINTS))
            report(f"{folder.name}, {phase.name}: {left[-1]:.1f} mm (95 %) are left by the lung boxes")
    if not controls:
        raise InputError("Modes of breathing need a sequence of at least two phases.")
    modes, explained = principal(controls)
    return Modes(modes.astype(np.float32), explained, tuple(left))


def write_modes(modes: Modes, path: str | os.PathLike) -> None:
    """As JSON; a file that is there is replaced whole."""
    values = {
        "version": VERSION,
        "unit": f"voxels of the {FINE} grid over the lung box; mode, component (x, y, z), z, y, x",
        "explained": modes.explained,
        "residual_mm": list(modes.residual_mm),
        "modes": modes.modes.round(5).tolist(),
    }
    write_text(Path(path), json.dumps(values) + "\n")


def read_modes(path: str | os.PathLike) -> Modes:
    """What ``write_modes`` wrote. Raises InputError."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        modes = np.array(values["modes"], np.float32)
        shape = (3, *(POINTS,) * 3)
        if values["version"] != VERSION or modes.shape[1:] != shape or not np.isfinite(modes).all():
            raise ValueError
        return Modes(modes, float(values["explained"]), tuple(values["residual_mm"]))
    except OSError as error:
        raise InputError(f"The breathing modes {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no breathing modes; make them with progressive-registration-train breathing."
        ) from error


@lru_cache(maxsize=4)
def known_modes(path: str | None) -> np.ndarray | None:
    """The modes of a file, read once; None where none is named."""
    return None if path is None else read_modes(path).modes
