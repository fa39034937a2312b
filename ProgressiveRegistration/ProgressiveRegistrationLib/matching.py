"""The refinement's data term: where in the lung both images are compared, and their features there."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch

from .features import CHANNELS, mind_ssc, sample_mapped
from .geometry import Affine, Box, Grid
from .lattices import Lattice, look_up_with_slope
from .progress import Stop, check
from .warp import Warp

MOVING_MARGIN_MM = 12.0  # of the moving lattice, beyond where the incoming field leads
MAX_VOXELS = 9_000_000  # of a feature lattice: 216 MB


class LungPoints:
    """Where the data term looks: the dilated lung mask, LPS mm."""

    def __init__(self, mask: sitk.Image, dilation_mm: float) -> None:
        grid = Grid.from_image(mask)
        radius = [round(dilation_mm / s) for s in grid.spacing]
        pad = [r + 1 for r in radius]
        wide = sitk.ConstantPad(sitk.Cast(mask > 0, sitk.sitkUInt8), pad, pad, 0)
        if max(radius) > 0:
            wide = sitk.BinaryDilate(wide, radius, sitk.sitkBall)
        self.grid = Grid.from_image(wide)
        self.index = np.argwhere(sitk.GetArrayViewFromImage(wide) > 0)[:, ::-1]
        self.box = Box.around(self.grid.index_to_world(self.index))

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """(count, 3) float32 LPS mm, uniformly in the mask's voxels."""
        chosen = torch.randint(len(self.index), (count,), generator=generator).numpy()
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
    ) -> None:
        sample = torch.from_numpy(lung.grid.index_to_world(lung.index[::7]).astype(np.float32)).to(
            warp.device
        )
        w = warp.at(sample)
        reach = torch.stack(
            [sample.amin(0), sample.amax(0), (sample + w).amin(0), (sample + w).amax(0)]
        ).cpu()
        reach = reach.numpy().astype(float)
        outer = Box(np.minimum(reach[0], reach[2]), np.maximum(reach[1], reach[3])).grown(MOVING_MARGIN_MM)
        self.voxel_mm = max(voxel_mm, float(np.prod(outer.extent / MAX_VOXELS ** (1 / 3)) ** (1 / 3)))
        self.device = warp.device
        box = lung.box.grown(2 * self.voxel_mm)
        grid = Grid((1, 1, 1), tuple(box.extent), tuple(box.centre)).with_spacing(self.voxel_mm)
        # one lattice goes on in the other: were they shifted, interpolation would pull even identical images 0.2 mm apart
        low = np.floor(grid.world_to_index(np.asarray(outer.lower))).astype(int)
        high = np.ceil(grid.world_to_index(np.asarray(outer.upper))).astype(int)
        larger = Grid(tuple(high - low + 1), grid.spacing, grid.index_to_world(low))
        self.fixed, self.fixed_rows = self._features(fixed, grid, Affine.identity(), noise, cancelled)
        self.moving, self.moving_rows = self._features(moving, larger, warp.affine, noise, cancelled)

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
        return look_up_with_slope(self.fixed, self.fixed_rows, points)[:, 0]

    def moving_at(self, points: torch.Tensor) -> torch.Tensor:
        """(n, 4, 12) float32: the features and their derivatives along x, y, z per mm."""
        return look_up_with_slope(self.moving, self.moving_rows, points)
