"""What the refinement compares: self-similarity of each voxel's neighbourhood (MIND-SSC),
which lung density does not change.

Heinrich et al., "Towards realtime multimodal fusion for image-guided interventions using self-similarities",
MICCAI 2013: how alike are the twelve pairs of neighbours of a voxel? Rows of twelve numbers a voxel, in half
precision, so that one look-up fetches a voxel's whole description.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ..constants import WINDOW_HU
from ..geometry import Affine, Grid
from ..progress import Stop, check

CHANNELS = 12
FLAT = 1e-4  # squared intensity per voxel that is added to the structure tensor: noise
SLAB_VOXELS = 1_000_000  # of which all is held in float32 at once
_NEIGHBOURS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))


def sample_mapped(image: sitk.Image, grid: Grid, affine: Affine) -> torch.Tensor:
    """(z, y, x) float32: the windowed image, 0 to 1, at ``affine(x)`` of the grid's voxels x.

    Where the grid is coarser than the image, whole voxels are averaged first; past the image its border
    voxels continue.
    """
    steps = affine.matrix @ grid.index_to_world_matrix  # mm of one grid step, in the image's frame
    along = np.abs(np.linalg.solve(Grid.from_image(image).index_to_world_matrix, steps)).max(1)
    shrink = [int(max(1, min(np.floor(a + 1e-6), n))) for a, n in zip(along, image.GetSize())]
    hu = torch.from_numpy(grid.sample(image, shrink=shrink, transform=affine))
    low, high = WINDOW_HU
    return hu.sub_(low).div_(high - low).clamp_(0, 1)


def mind_ssc(image: torch.Tensor, *, noise: float = 0.0, cancelled: Stop = None) -> torch.Tensor:
    """MIND-SSC: (D, H, W, 12) float16 in 0..1 of an image (D, H, W); dilation 1, patches of 3^3 voxels.

    Parameters
    ----------
    noise : variance (squared intensity) that is added to the local one, so that noise in flat tissue makes no
        pattern.
    """
    out = torch.empty((*image.shape, CHANNELS), dtype=torch.float16, device=image.device)
    step = max(1, SLAB_VOXELS // (image.shape[1] * image.shape[2]))
    padded = F.pad(image[None, None], [3] * 6, mode="replicate")[0, 0]
    for start in range(0, image.shape[0], step):
        check(cancelled)
        stop = min(start + step, image.shape[0])
        out[start:stop] = _mind_slab(padded[start : stop + 6], noise)
    return out


def distinctness(image: torch.Tensor, index: np.ndarray) -> np.ndarray:
    """(n,) float64, intensity per voxel: how steep an image (D, H, W) is along its least steep direction,
    near voxels (n, 3) x, y, z.

    The root of 1 / trace(S^-1), S the structure tensor over 3^3 voxels: Förstner and Gülch, "A fast operator
    for detection and precise location of distinct points, corners and centres of circular features", ISPRS
    1987.
    """
    x, y, z = torch.from_numpy(np.ascontiguousarray(index.T))
    slopes = torch.gradient(image)

    def mean(i: int, j: int) -> torch.Tensor:
        patch = F.avg_pool3d((slopes[i] * slopes[j])[None, None], 3, 1, 1, count_include_pad=False)
        return patch[0, 0, z, y, x].double() + (FLAT if i == j else 0.0)

    a, b, c, ab, ac, bc = (mean(*pair) for pair in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))
    minors = a * b - ab * ab + a * c - ac * ac + b * c - bc * bc
    determinant = a * (b * c - bc * bc) - ab * (ab * c - bc * ac) + ac * (ab * bc - b * ac)
    return (determinant / minors).clamp_(min=0).sqrt_().numpy()


def _mind_slab(padded: torch.Tensor, noise: float) -> torch.Tensor:
    """(d, h, w, 12) of a slab with 3 voxels more on every side."""
    size = [n - 6 for n in padded.shape]
    distances: dict[tuple[int, ...], torch.Tensor] = {}
    rows = []
    for first, step in _pairs():
        if step not in distances:
            a = padded[tuple(slice(1, n - 1) for n in padded.shape)]
            b = padded[tuple(slice(1 + s, n - 1 + s) for s, n in zip(step, padded.shape))]
            distances[step] = _box((a - b).square_())
        distance = distances[step]  # one voxel more on every side
        rows.append(distance[tuple(slice(1 + f, 1 + f + n) for f, n in zip(first, size))])
    least, total = torch.minimum(rows[0], rows[1]), rows[0] + rows[1]
    for row in rows[2:]:  # channel by channel: twice as fast as along rows of twelve
        torch.minimum(least, row, out=least)
        total += row
    # -1 / variance: the mean of what lies above the least, and the noise
    scale = (total / -CHANNELS).add_(least).sub_(max(noise, 1e-8)).reciprocal_()
    out = torch.empty((*size, CHANNELS), dtype=torch.float16, device=padded.device)
    for channel, row in enumerate(rows):
        out[..., channel] = (row - least).mul_(scale).exp_()
    return out


def _pairs() -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The twelve pairs of neighbours that are not opposite: the first one's offset,
    and the step to the other (z, y, x)."""
    for i, p in enumerate(_NEIGHBOURS):
        for q in _NEIGHBOURS[i + 1 :]:
            step = tuple(b - a for a, b in zip(p, q))
            if sum(abs(s) for s in step) == 2 and max(abs(s) for s in step) == 1:
                # one sign per direction: two pairs then share their distances
                positive = next(s for s in step if s) > 0
                yield (p, step) if positive else (q, tuple(-s for s in step))


def _box(t: torch.Tensor) -> torch.Tensor:
    """Mean over 3^3 voxels; one voxel less on every side."""
    for axis in range(3):
        n = t.shape[axis] - 2
        t = t.narrow(axis, 0, n) + t.narrow(axis, 1, n) + t.narrow(axis, 2, n)
    return t.div_(27)
