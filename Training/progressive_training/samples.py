"""One training sample: a scan deformed twice, as the network sees it, with the true displacement (paper, Fig. 3).

Everything random is drawn from a generator keyed by (seed, sample number): a sample is the same on every machine, in
every order and after every restart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from ProgressiveRegistrationLib.geometry import Box
from ProgressiveRegistrationLib.network_input import SIGMA, gradient_magnitude

from .cache import MASKS, CachedScan, ScanStore
from .deformation import FINE, TABLE_I, Deformation, GrydsDeformation, Lattice, SplineSpec, draw, identity

# Gradient magnitude of a pair sampled on 64^3, brought to the scale of the 128^3 one averaged to 64^3: half for the
# larger voxels, and 1.26 for the detail that the coarser grid has lost (measured on three scans: 1.2 to 1.3).
COARSE_GAIN = 0.63


@dataclass(frozen=True)
class Augmentation:
    """What is drawn beyond the paper's two transforms; all of it is off in ``Augmentation.none()``.

    Shares are probabilities. Box values are parts of the lung box's side. ``density``: relative change of the lung's
    windowed density, moving against fixed. ``noise``: standard deviation in windowed units on the 128 grid.
    ``blur_share``: samples whose slices are thickened, each image by its own width.
    """

    box_margin: tuple[float, float] = (-0.01, 0.06)
    box_change: float = 0.04
    box_change_share: float = 0.7
    flip: bool = True
    one_lung_share: float = 0.2
    masked_share: float = 0.3
    density: float = 0.4
    noise: float = 0.02
    blur_share: float = 0.5
    large_share: float = 0.3
    large_amplitude: float = 1.5
    phantom_share: float = 0.0

    @classmethod
    def none(cls) -> Augmentation:
        """The paper's own augmentation only (T1)."""
        return cls((0.0, 0.0), 0.0, 0.0, False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Sampling:
    """How pairs are made.

    input : "gradient" (paper) or "intensity". mask : "body" or "bore" (paper). mask_moved_with : "t1" (eq. 4 as printed)
    or "t1t2" (where the fixed image shows it). lung_weight : of a lung voxel, against 1 in the rest of the mask.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    table: dict[str, SplineSpec] = field(default_factory=lambda: dict(TABLE_I))
    generator: str = "fast"
    input: str = "gradient"
    sigma: float = SIGMA
    mask: str = "body"
    mask_moved_with: str = "t1t2"
    lung_weight: float = 10.0


@dataclass(frozen=True)
class Sample:
    """A pair and its truth.

    images : (1, 2, S, S, S), fixed and moving. target : (1, 3, s, s, s) voxels of the 128 grid. weight : (1, 1, s, s, s)
    of the loss. lung : (1, 1, s, s, s) in [0, 1], the fixed image's lung. spacing : mm of the 128 grid, x, y, z.
    """

    images: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    lung: torch.Tensor
    spacing: tuple[float, float, float]
    scan: str = ""


def sample_volume(volume: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Trilinear values (C, d, h, w) of (C, D, H, W) at voxel indices (3, d, h, w) x, y, z; the border continues."""
    size = torch.tensor(volume.shape[:0:-1], dtype=torch.float32).view(3, 1, 1, 1)
    grid = ((index + 0.5) * (2.0 / size) - 1.0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(volume[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def _to_fine(u: torch.Tensor) -> torch.Tensor:
    """(C, 66, 66, 66) on the padded 64 lattice -> (C, 128, 128, 128), trilinear."""
    up = F.interpolate(u[None], scale_factor=2, mode="trilinear", align_corners=False)[0]
    return up[:, 2:-2, 2:-2, 2:-2]


def _thicken(image: torch.Tensor, width: float) -> torch.Tensor:
    """Blur (D, H, W) along z with (a, 1 - 2a, a), a = ``width`` in [0, 1/3], edges continued."""
    padded = torch.cat([image[:1], image, image[-1:]])
    return (1 - 2 * width) * image + width * (padded[:-2] + padded[2:])


def _densify(image: torch.Tensor, gain: float) -> torch.Tensor:
    """Change lung density: a voxel's window value w becomes w (1 + gain (1 - w)^2); air and soft tissue stay."""
    return image * (1 + gain * (1 - image) ** 2)


class SampleStream:
    """Samples by number: ``stream.sample(number, side, target_side)``.

    ``name`` keeps training and validation apart: the same number gives other samples.
    """

    def __init__(self, store: ScanStore, sampling: Sampling, seed: int, name: str = "train") -> None:
        self.store, self.sampling = store, sampling
        self.key = [int(seed), int.from_bytes(name.encode()[:8].ljust(8, b"\0"), "little")]

    def sample(
        self, number: int, side: int = FINE, target_side: int | None = None, scan: int | None = None
    ) -> Sample:
        """Sample ``number`` with images of ``side`` (64 or 128) and truth of ``target_side`` (at most ``side``)."""
        rng = np.random.default_rng([*self.key, int(number)])
        index = int(rng.integers(len(self.store)))
        chosen = self.store[index if scan is None else scan]
        return make_sample(chosen, rng, self.sampling, side, target_side or side)


def draw_box(rng: np.random.Generator, scan: CachedScan, options: Augmentation) -> Box:
    """The moving image's box: both lungs or one, with margins drawn per face."""
    box = scan.box
    if scan.side_boxes and rng.random() < options.one_lung_share:
        box = scan.side_boxes[int(rng.integers(len(scan.side_boxes)))]
    low, high = options.box_margin
    grow = rng.uniform(low, high, (2, 3)) * box.extent
    return Box(np.asarray(box.lower) - grow[0], np.asarray(box.upper) + grow[1])


def draw_deformation(rng: np.random.Generator, sampling: Sampling) -> Deformation:
    """T1 and T2 with, by share, larger amplitudes and a moving box that differs from the fixed one."""
    options = sampling.augmentation
    amplitude = (1.0, 1.0, 1.0)
    large, factor = rng.random() < options.large_share, rng.uniform(1, options.large_amplitude, 2)
    if large:
        amplitude = (1.0, float(factor[0]), float(factor[1]))
    scale, shift = (1.0,) * 3, (0.0,) * 3
    changed, faces = rng.random() < options.box_change_share, rng.uniform(-1, 1, (2, 3))
    if changed and options.box_change:
        lower, upper = faces * options.box_change
        scale = tuple((1 + upper - lower).tolist())
        # Face to face: outer faces lie half a voxel past the first and last index.
        shift = tuple(((lower + 0.5 / FINE) * FINE - 0.5 * (1 + upper - lower)).tolist())
    out = draw(rng, sampling.table, amplitude, scale, shift)
    if sampling.generator == "gryds":
        out = GrydsDeformation(out.t1, out.t21, out.t22, out.box_scale, out.box_shift)
    return out


def make_sample(
    scan: CachedScan, rng: np.random.Generator, sampling: Sampling, side: int, target_side: int
) -> Sample:
    """Draw and render one sample from a scan."""
    options = sampling.augmentation
    box = draw_box(rng, scan, options)
    flip = options.flip and rng.random() < 0.5
    deformation = draw_deformation(rng, sampling)
    spacing = box.extent / FINE
    # Fine index -> voxel of the volume; a flip runs through the box from its other end.
    step = spacing / np.asarray(scan.spacing)
    start = (np.asarray(box.lower) + spacing / 2 - np.asarray(scan.origin)) / np.asarray(scan.spacing)
    if flip:
        start[0] += step[0] * (FINE - 1)
        step[0] = -step[0]
    lattice = Lattice(64, 1)
    inner = slice(1, -1)
    u = deformation.t2_field(lattice)
    u1 = deformation.t1_field(lattice)
    both = deformation.t1_of_t2(u, lattice) - identity(lattice)
    if side == FINE:
        grid = identity(Lattice(FINE))
        moving_at, fixed_at = grid + _to_fine(u1), grid + _to_fine(both)
        volume, factor = scan.volume, 1
    else:
        grid = identity(Lattice(64))
        moving_at = grid + u1[:, inner, inner, inner]
        fixed_at = grid + both[:, inner, inner, inner]
        volume, factor = scan.coarse, 2

    def voxels(at: torch.Tensor, coarse: bool) -> torch.Tensor:
        index = at * torch.tensor(step, dtype=torch.float32).view(3, 1, 1, 1)
        index += torch.tensor(start, dtype=torch.float32).view(3, 1, 1, 1)
        return (index - 0.5) / 2 if coarse else index

    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    gains = rng.uniform(-1, 1, 2) * options.density / 2
    levels = rng.uniform(0, 1, 2) * options.noise / (factor**1.5)
    blur = rng.random() < options.blur_share
    widths = rng.uniform(0, 1 / 3, 2) / factor
    hide = rng.random() < options.masked_share and box.extent[0] < 0.75 * scan.box.extent[0]
    images = []
    for k, at in enumerate((fixed_at, moving_at)):
        image = sample_volume(volume[None], voxels(at, factor == 2))[0]
        if hide:
            image = image * _near_one_lung(scan, box, voxels(at, True))
        if options.density:
            image = _densify(image, float(gains[k]))
        if blur:
            image = _thicken(image, float(widths[k]))
        if options.noise:
            image = image.add(torch.randn(image.shape, generator=noise), alpha=float(levels[k])).clamp_(0, 1)
        images.append(image)
    images = torch.stack(images)[None]
    if sampling.input == "gradient":
        # Per voxel of the 128 grid, whichever grid it was computed on.
        images = gradient_magnitude(images, sampling.sigma)
        if factor == 2:
            images = images * COARSE_GAIN

    if target_side == FINE:
        target, fixed_at_target = _to_fine(u), fixed_at
        moved = fixed_at if sampling.mask_moved_with == "t1t2" else moving_at
    else:
        target = u[:, inner, inner, inner]
        grid = identity(Lattice(64))
        fixed_at_target = grid + both[:, inner, inner, inner]
        moved = fixed_at_target if sampling.mask_moved_with == "t1t2" else grid + u1[:, inner, inner, inner]
    lung = sample_volume(scan.masks[:1], voxels(fixed_at_target, True))
    mask = MASKS.index(sampling.mask)
    inside = sample_volume(scan.masks[mask : mask + 1], voxels(moved, True))
    # A little weight outside the mask's edge voxels would be noise: halves count as in.
    weight = (inside >= 0.5).float() + (sampling.lung_weight - 1) * lung
    target, weight, lung = target[None], weight[None], lung[None]
    if target_side < 64:
        pool = 64 // target_side
        target, weight, lung = (F.avg_pool3d(t, pool) for t in (target, weight, lung))
    return Sample(images, target, weight, lung, tuple(spacing.tolist()), scan.name)


def _near_one_lung(scan: CachedScan, box: Box, index: torch.Tensor) -> torch.Tensor:
    """1 near the lung whose box this is, 0 elsewhere: images that come masked to one lung."""
    centres = [abs(float(b.centre[0] - box.centre[0])) for b in scan.side_boxes]
    side = 1 + int(np.argmin(centres)) if len(centres) == 2 else 0
    mask = F.max_pool3d(scan.masks[None, side : side + 1], 5, 1, 2)[0]
    return (sample_volume(mask, index)[0] >= 0.5).float()
