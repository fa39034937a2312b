"""The refinement's data term: where in the lung both images are compared, and their features there."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch

from ..geometry import Affine, Box, Grid
from ..progress import Stop, check
from .ahead import Ahead
from .features import CHANNELS, distinctness, mind_ssc, sample_mapped
from .lattices import Lattice, RowsAt, sent
from .warp import Warp

MOVING_MARGIN_MM = 12.0  # of the moving lattice, beyond where the incoming field leads
MAX_VOXELS = 9_000_000  # of a feature lattice: 216 MB
MASK_MM, WEIGHT_MM = 2.0, 2.0  # of the lattices on which points are drawn and weighed


class LungPoints:
    """Where the data term looks: points of the dilated lung mask, LPS mm,
    more of them where the image is distinct.

    A vessel's fork says where a place has moved to; along a wall it may slide, in even tissue it may be
    anywhere.
    """

    def __init__(self, mask: sitk.Image, dilation_mm: float, image: sitk.Image) -> None:
        grid = Grid.from_image(mask)
        if min(grid.spacing) < MASK_MM:  # bounded memory, whoever made the mask
            grid = grid.with_spacing(np.maximum(grid.spacing, MASK_MM))
            mask = grid.resample(mask, interpolator=sitk.sitkNearestNeighbor)
        radius = [round(dilation_mm / s) for s in grid.spacing]
        pad = [r + 1 for r in radius]
        wide = sitk.ConstantPad(sitk.Cast(mask > 0, sitk.sitkUInt8), pad, pad, 0)
        if max(radius) > 0:
            wide = sitk.BinaryDilate(wide, radius, sitk.sitkBall)
        self.grid = Grid.from_image(wide)
        self.index = np.argwhere(sitk.GetArrayViewFromImage(wide) > 0)[:, ::-1]
        places = self.grid.index_to_world(self.index)
        self.box = Box.around(places)
        self._cumulative = np.cumsum(self._weights(image, places))

    def _weights(self, image: sitk.Image, places: np.ndarray) -> np.ndarray:
        """(n,): how distinct the image is around LPS places (n, 3);
        neither 0 nor ruled by a few strong corners."""
        grid = self.box.grid(1).with_spacing(WEIGHT_MM)
        index = np.clip(np.rint(grid.world_to_index(places)).astype(int), 0, np.asarray(grid.size) - 1)
        found = distinctness(sample_mapped(image, grid, Affine.identity()), index)
        low, high = np.percentile(found, (20, 95))
        return np.minimum(found, high) + max(low, 0.2 * found.mean()) + 1e-6

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """(count, 3) float32 LPS mm, neighbours near each other in the list:
        what is looked up there then lies near, too."""
        share = torch.rand(count, generator=generator, dtype=torch.float64).sort()[0]
        level = share.numpy() * self._cumulative[-1]
        chosen = np.minimum(np.searchsorted(self._cumulative, level), len(self.index) - 1)
        jitter = torch.rand((count, 3), generator=generator).numpy() - 0.5
        return torch.from_numpy(self.grid.index_to_world(self.index[chosen] + jitter).astype(np.float32))


class FeaturePair:
    """Features of both images on lattices of one spacing; the moving one seen through the affine map."""

    def __init__(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        warp: Warp,
        lung: LungPoints,
        voxel_mm: float,
        noise: float,
        cancelled: Stop,
        ahead: Ahead | None = None,
    ) -> None:
        sample = torch.from_numpy(lung.grid.index_to_world(lung.index[::7]).astype(np.float32)).to(
            warp.device
        )
        w = warp.at(sample)
        ends = [sample.amin(0), sample.amax(0), (sample + w).amin(0), (sample + w).amax(0)]
        reach = torch.stack(ends).cpu().numpy().astype(float)
        outer = Box(np.minimum(reach[0], reach[2]), np.maximum(reach[1], reach[3])).grown(MOVING_MARGIN_MM)
        self.voxel_mm = max(voxel_mm, float(np.prod(outer.extent / MAX_VOXELS ** (1 / 3)) ** (1 / 3)))
        self.device = warp.device
        box = lung.box.grown(2 * self.voxel_mm)
        grid = box.grid(1).with_spacing(self.voxel_mm)
        # one lattice goes on in the other: were they shifted, interpolation would pull even identical images
        # 0.2 mm apart
        low = np.floor(grid.world_to_index(np.asarray(outer.lower))).astype(int)
        high = np.ceil(grid.world_to_index(np.asarray(outer.upper))).astype(int)
        larger = Grid(tuple(high - low + 1), grid.spacing, grid.index_to_world(low))
        # only one thread asks whether to stop
        beside = (ahead or Ahead()).begin(lambda: self._features(fixed, grid, Affine.identity(), noise, None))
        self.moving, self.moving_rows = self._features(moving, larger, warp.affine, noise, cancelled)
        self.fixed, self.fixed_rows = beside()
        # lattice point -> index of the moving image
        own = Grid.from_image(moving)
        back = np.linalg.inv(own.index_to_world_matrix)
        self.to_index = self._tensor(back @ warp.affine.matrix)
        self.index_offset = self._tensor(back @ (warp.affine.offset - np.asarray(own.origin)))
        self.first = self._tensor(
            np.minimum(self.voxel_mm / np.asarray(own.spacing), np.asarray(own.size) / 4) - 0.5
        )
        self.last = self._tensor(np.asarray(own.size) - 1.0) - self.first

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=self.device)

    def _features(
        self, image: sitk.Image, grid: Grid, affine: Affine, noise: float, cancelled: Stop
    ) -> tuple[Lattice, torch.Tensor]:
        check(cancelled)
        values = sample_mapped(image, grid, affine).to(self.device)
        return Lattice(grid, self.device), mind_ssc(values, noise=noise, cancelled=cancelled).view(
            -1, CHANNELS
        )

    def fixed_at(self, points: torch.Tensor) -> torch.Tensor:
        """(n, 12) float32."""
        return RowsAt(self.fixed, points).value(self.fixed_rows)

    def seen(self, points: torch.Tensor) -> torch.Tensor:
        """(n,) 1 where the moving image shows these LPS points, 0 past its border,
        where features are made up."""
        index = points @ self.to_index.T + self.index_offset
        return ((index >= self.first) & (index <= self.last)).all(1).float()

    def difference(self, points: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """At LPS points (n, 3): features minus ``wanted`` (n, 12), and ``seen`` (n,)."""
        return RowsAt(self.moving, points).value(self.moving_rows) - wanted, self.seen(points)

    def pull(
        self, points: torch.Tensor, wanted: torch.Tensor, robust: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The data term at LPS points (n, 3), and the gradient (n, 3) of its robust form by them.

        ``robust``: squared difference past which a point counts for less (Geman-McClure).
        """
        found = RowsAt(self.moving, points)
        value, slopes = found.value_and_slopes(self.moving_rows)
        difference, seen = value.sub_(wanted), self.seen(points)
        squared = difference.square().sum(1)
        counts = seen * (robust / (robust + squared)).square_()
        counts *= 2 / counts.sum().clamp(min=1e-6)
        along = (difference * counts[:, None])[:, :, None]
        data = (squared * seen).sum() / seen.sum().clamp(min=1)
        return data, found.per_mm(torch.bmm(slopes, along)[:, :, 0])


def shuffled(count: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """(count,) the indices of drawn points in random order: for each,
    another place that has nothing to do with it."""
    return sent(torch.randperm(count, generator=generator), device)


def mean_square(difference: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The data term: mean over seen points of the squared feature difference, a sum of 12."""
    return (difference.square().sum(1) * seen).sum() / seen.sum().clamp(min=1)
