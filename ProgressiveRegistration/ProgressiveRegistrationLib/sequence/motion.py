"""What the fields of a sequence say about the motion: its amplitude, the mid-position, the paths of
landmarks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np
import SimpleITK as sitk

from ..field import DisplacementField
from ..geometry import Grid
from ..progress import Stop, check
from ..statistics import statistics


def amplitude(displacements: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each point of the reference travels, mm.

    Parameters
    ----------
    displacements : (n, z, y, x, 3), from the reference to each phase (0 for itself).

    Returns
    -------
    (z, y, x) float32, the largest distance between any two places of the point; (z, y, x, 3) float32, the
    range along LPS x, y, z.
    """
    n, *shape, _ = displacements.shape
    largest, ranges = np.zeros(shape, np.float32), np.empty((*shape, 3), np.float32)
    for z in range(shape[0]):
        u = displacements[:, z]
        ranges[z] = u.max(0) - u.min(0)
        for j in range(n):
            for k in range(j + 1, n):
                np.maximum(largest[z], np.linalg.norm(u[j] - u[k], axis=-1), out=largest[z])
    return largest, ranges


def mid_position(displacements: np.ndarray, grid: Grid) -> DisplacementField:
    """The field from the reference to each point's mean place over the phases.

    Wolthaus et al., "Reconstruction of a time-averaged midposition CT scan for radiotherapy planning of
    lung cancer patients using deformable registration", Medical Physics 35 (2008) 3998.
    """
    return DisplacementField(grid, displacements.mean(0))


def mean_image(
    images: Iterable[sitk.Image], maps: Iterable[sitk.Transform], grid: Grid, cancelled: Stop = None
) -> sitk.Image:
    """The mean of all images, each seen through its map from ``grid``, float32; where an image ends, the
    others' mean.
    """
    total = np.zeros(grid.shape, np.float64)
    count = np.zeros(grid.shape, np.float64)
    for image, transform in zip(images, maps):
        check(cancelled)
        resampler = sitk.ResampleImageFilter()
        resampler.SetSize(grid.size)
        resampler.SetOutputOrigin(grid.origin)
        resampler.SetOutputSpacing(grid.spacing)
        resampler.SetOutputDirection(grid.direction)
        resampler.SetTransform(transform)
        resampler.SetInterpolator(sitk.sitkLinear)
        resampler.SetDefaultPixelValue(-32000.0)
        resampler.SetOutputPixelType(sitk.sitkFloat32)
        values = sitk.GetArrayFromImage(resampler.Execute(image))
        seen = values > -30000
        total[seen] += values[seen]
        count[seen] += 1
    return grid.image(np.where(count > 0, total / np.maximum(count, 1), -1024.0).astype(np.float32))


class Trajectories:
    """Landmarks of one phase, ``base``, on their way through all phases, and where they were marked there.

    ``found``: (phases, n, 3) LPS mm, by the fields; ``marked``: the same by the user, NaN where a phase has
    no such landmark. ``base`` is the reference, or, where that has no landmarks, another phase, from which
    they were brought onto the reference against its field.
    """

    def __init__(
        self,
        names: Sequence[str],
        base: int,
        labels: Sequence[str],
        found: np.ndarray,
        marked: np.ndarray,
    ) -> None:
        self.names, self.labels = list(names), list(labels)
        self.base, self.found, self.marked = base, found, marked

    @property
    def errors(self) -> np.ndarray:
        """(phases, n): TRE in mm, NaN where nothing was marked, and in ``base``, where they start."""
        out = np.linalg.norm(self.found - self.marked, axis=-1)
        out[self.base] = np.nan
        return out

    def summary(self, phase: int) -> dict | None:
        """``before`` and ``after`` of one phase as ``quality.statistics``; None without marks."""
        known = np.isfinite(self.errors[phase])
        if not known.any():
            return None
        before = np.linalg.norm(self.marked[self.base] - self.marked[phase], axis=1)[known]
        return {"before": statistics(before), "after": statistics(self.errors[phase][known])}

    def to_csv(self) -> str:
        """A row a landmark and phase: found and marked place (LPS mm), TRE (mm)."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        axes = ("x_lps", "y_lps", "z_lps")
        rows.writerow(["label", "phase", *axes, *(f"marked_{a}" for a in axes), "tre_mm"])
        errors = self.errors
        for i, label in enumerate(self.labels):
            for k, name in enumerate(self.names):
                marked = ["" if np.isnan(v) else f"{v:.3f}" for v in self.marked[k, i]]
                error = "" if np.isnan(errors[k, i]) else f"{errors[k, i]:.3f}"
                rows.writerow([label, name, *(f"{v:.3f}" for v in self.found[k, i]), *marked, error])
        return text.getvalue()
