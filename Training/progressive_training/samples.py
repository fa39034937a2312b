"""One training sample: a scan deformed twice, as the network sees it, with the true displacement (paper,
Fig. 3).

Everything random is drawn from a generator keyed by (seed, sample number): a sample is the same on every
machine, in every order and after every restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import torch.nn.functional as F
from ProgressiveRegistrationLib.geometry import Box
from ProgressiveRegistrationLib.network.input import SIGMA, gradient_magnitude

from .breathing import known_modes
from .cache import MASKS, CachedScan, ScanStore
from .deformation import (
    FINE,
    TABLE_I,
    Deformation,
    GrydsDeformation,
    Lattice,
    SplineSpec,
    draw,
    draw_breathing,
    identity,
)
from .phantoms import PhantomPair, PhantomStore
from .values import DEFAULTS, Flag, Number, TwoNumbers, Whole, one_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .pairs import UnlabelledPair

# Gradient magnitude of a pair sampled on 64^3, brought to the scale of the 128^3 one averaged to 64^3: half
# for the larger voxels, and 1.26 for the detail that the coarser grid has lost (measured on three scans: 1.2
# to 1.3).
COARSE_GAIN = 0.63

# ``Augmentation.density`` of held-out samples: not the configuration's, or two of them would be judged on
# other images.
HELD_OUT_DENSITY = 0.3


@dataclass(frozen=True)
class Augmentation:
    """What is drawn beyond the paper's two transforms; all of it is off in ``Augmentation.none()``.

    Shares are probabilities. Box values are parts of the lung box's side. ``density``: relative change of the
    lung's windowed density, moving against fixed. ``noise``: standard deviation in windowed units on the 128
    grid. ``blur_share``: samples whose slices are thickened, each image by its own width. ``small_share``:
    samples whose whole motion is multiplied by a number in [0, 1): what boxes leave, and what a second pass
    of the network meets. ``rough_share``: samples whose T2,2 is multiplied by a number in [0, 1).
    ``breathing_share``: samples whose T2,1 is ``draw_breathing``'s. ``still_share``: samples without motion.
    """

    box_margin: TwoNumbers = (-0.01, 0.06)
    box_change: Number = 0.04
    box_change_share: Number = 0.7
    flip: Flag = True
    one_lung_share: Number = 0.2
    masked_share: Number = 0.3
    density: Number = 0.4
    noise: Number = 0.02
    blur_share: Number = 0.5
    large_share: Number = 0.3
    large_amplitude: Number = 1.5
    small_share: Number = 0.0
    rough_share: Number = 0.0
    breathing_share: Number = 0.0
    still_share: Number = 0.0
    phantom_share: Number = 0.0
    phantoms: Whole = 12

    @classmethod
    def none(cls) -> Augmentation:
        """The paper's own augmentation only (T1)."""
        return cls((0.0, 0.0), 0.0, 0.0, False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Sampling:
    """How pairs are made.

    input : "gradient" (paper) or "intensity". mask : "body" or "bore" (paper). mask_moved_with : "t1" (eq. 4
        as printed)
    or "t1t2" (where the fixed image shows it). lung_weight : of a lung voxel, against 1 in the rest of the
    mask. breathing_modes : a file of ``breathing.write_modes``, relative to the configuration; samples of
    ``breathing_share`` then move like those patients.
    """

    augmentation: Annotated[Augmentation, DEFAULTS] = field(default_factory=Augmentation)
    table: dict[str, SplineSpec] = field(default_factory=lambda: dict(TABLE_I))
    generator: Annotated[str, one_of("fast", "gryds")] = "fast"
    input: Annotated[str, one_of("gradient", "intensity")] = "gradient"
    sigma: Number = SIGMA
    mask: Annotated[str, one_of("body", "bore")] = "body"
    mask_moved_with: Annotated[str, one_of("t1", "t1t2")] = "t1t2"
    lung_weight: Number = 10.0
    breathing_modes: str | None = None


@dataclass(frozen=True)
class Sample:
    """A pair and its truth, on the device where its scan is.

    images : (1, 2, S, S, S), fixed and moving. target : (1, 3, s, s, s) voxels of the 128 grid. weight : (1,
        1, s, s, s)
    of the loss. lung : (1, 1, s, s, s) in [0, 1], the fixed image's lung. spacing : mm of the 128 grid, x, y,
    z.
    """

    images: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    lung: torch.Tensor
    spacing: tuple[float, float, float]
    scan: str = ""

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Sample:
        return replace(
            self,
            images=change(self.images),
            target=change(self.target),
            weight=change(self.weight),
            lung=change(self.lung),
        )

    def to(self, device: torch.device) -> Sample:
        """The same on another device."""
        return self._with(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Sample:
        """The same where a GPU can fetch it while it computes (called by ``DataLoader``)."""
        return self._with(torch.Tensor.pin_memory)


def sample_volume(volume: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Trilinear values (C, d, h, w) of (C, D, H, W) at voxel indices (3, d, h, w) x, y, z;
    the border continues."""
    size = _along(volume.shape[:0:-1], index.device)
    grid = ((index + 0.5) * (2.0 / size) - 1.0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(volume[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def _along(values: ArrayLike, device: torch.device) -> torch.Tensor:
    """Three numbers x, y, z as (3, 1, 1, 1) float32, to combine with positions."""
    return torch.tensor(np.asarray(values), dtype=torch.float32, device=device).view(3, 1, 1, 1)


def _to_fine(u: torch.Tensor) -> torch.Tensor:
    """(C, d + 2, h + 2, w + 2) on a padded lattice -> (C, 2 d, 2 h, 2 w) on one twice as fine, trilinear."""
    up = F.interpolate(u[None], scale_factor=2, mode="trilinear", align_corners=False)[0]
    return up[:, 2:-2, 2:-2, 2:-2]


def _thicken(image: torch.Tensor, width: float) -> torch.Tensor:
    """Blur (D, H, W) along z with (a, 1 - 2a, a), a = ``width`` in [0, 1/3], edges continued."""
    padded = torch.cat([image[:1], image, image[-1:]])
    return (1 - 2 * width) * image + width * (padded[:-2] + padded[2:])


def _densify(image: torch.Tensor, gain: float) -> torch.Tensor:
    """Change lung density: a voxel's window value w becomes w (1 + gain (1 - w)^2);
    air and soft tissue stay."""
    return image * (1 + gain * (1 - image) ** 2)


class SampleStream:
    """Samples by number: ``stream.sample(number, side, target_side)``.

    ``name`` keeps training and validation apart: the same number gives other samples. ``shape``: see
    ``Grids``.
    """

    def __init__(
        self,
        store: ScanStore,
        sampling: Sampling,
        seed: int,
        name: str = "train",
        phantoms: PhantomStore | None = None,
        pairs: Sequence[UnlabelledPair] = (),
        pair_share: float = 0.0,
        shape: tuple[int, int, int] = (FINE,) * 3,
    ) -> None:
        self.store, self.sampling, self.phantoms, self.shape = store, sampling, phantoms, shape
        if sampling.augmentation.breathing_share:
            known_modes(sampling.breathing_modes)  # what is wrong with the file is said now, not on the way
        self.pairs, self.pair_share = list(pairs), pair_share
        self.key = [int(seed), int.from_bytes(name.encode()[:8].ljust(8, b"\0"), "little")]

    def share(self, processes: int) -> None:
        """Keep no more in memory than one's part, where each of ``processes`` has such a stream."""
        self.store.limit /= processes
        if self.phantoms:
            self.phantoms.kept = max(1, self.phantoms.kept // processes)

    @classmethod
    def held_out(
        cls,
        store: ScanStore,
        sampling: Sampling,
        amplitude: float = 1.0,
        shape: tuple[int, int, int] = (FINE,) * 3,
    ) -> SampleStream:
        """The paper's fixed deformations of plain scans, in boxes of their own:
        what validation and evaluation measure on.

        The same for all configurations, but for what a network is shown (``input``, ``sigma``) and the loss's
        weights. ``amplitude`` multiplies T2 and the box's change.
        """
        box = 0.04 * amplitude
        plain = replace(Augmentation.none(), box_change=box, box_change_share=1.0, density=HELD_OUT_DENSITY)
        table = {name: spec if name == "t1" else spec.scaled(amplitude) for name, spec in TABLE_I.items()}
        same = replace(sampling, augmentation=plain, table=table, generator="fast")
        return cls(store, same, 1, "validate", shape=shape)

    def sample(
        self, number: int, side: int = FINE, target_side: int | None = None, scan: int | None = None
    ) -> Sample:
        """Sample ``number`` with images of ``side`` (64 or 128)
        and truth of ``target_side`` (at most ``side``)."""
        rng = np.random.default_rng([*self.key, int(number)])
        if self.pairs and scan is None and rng.random() < self.pair_share:
            pair = self.pairs[int(rng.integers(len(self.pairs)))]
            return pair.sample(rng, side, target_side or side, self.sampling.lung_weight)
        grids = Grids(self.shape)
        share = self.sampling.augmentation.phantom_share
        if share and self.phantoms and scan is None and rng.random() < share:
            phantom = self.phantoms[int(rng.integers(len(self.phantoms)))]
            return make_phantom_sample(phantom, rng, self.sampling, side, target_side or side, grids)
        index = int(rng.integers(len(self.store)))
        chosen = self.store[index if scan is None else scan]
        return make_sample(chosen, rng, self.sampling, side, target_side or side, grids)


@dataclass(frozen=True)
class Appearance:
    """How two images are made to differ, beyond the deformation: density, noise, slice thickness of each."""

    noise: torch.Generator
    gains: np.ndarray
    levels: np.ndarray
    blur: bool
    widths: np.ndarray
    hides: bool

    def apply(self, image: torch.Tensor, k: int) -> torch.Tensor:
        """Image ``k`` (0 fixed, 1 moving) of a pair, (D, H, W) in [0, 1]."""
        if self.gains[k]:
            image = _densify(image, float(self.gains[k]))
        if self.blur:
            image = _thicken(image, float(self.widths[k]))
        if self.levels[k]:
            # Drawn on the CPU: another device draws other numbers.
            grain = torch.randn(image.shape, generator=self.noise).to(image.device)
            image = image.add(grain, alpha=float(self.levels[k])).clamp_(0, 1)
        return image


def draw_appearance(rng: np.random.Generator, options: Augmentation, factor: int) -> Appearance:
    """``factor``: 2 where the pair is sampled on 64^3, on which noise and slices count for less."""
    return Appearance(
        noise=torch.Generator().manual_seed(int(rng.integers(2**62))),
        gains=rng.uniform(-1, 1, 2) * options.density / 2,
        levels=rng.uniform(0, 1, 2) * options.noise / (factor**1.5),
        blur=bool(rng.random() < options.blur_share),
        widths=rng.uniform(0, 1 / 3, 2) / factor,
        hides=bool(rng.random() < options.masked_share),
    )


def as_input(images: list[torch.Tensor], sampling: Sampling, factor: int) -> torch.Tensor:
    """Two windowed images -> (1, 2, S, S, S) as the network sees them."""
    stacked = torch.stack(images)[None]
    if sampling.input != "gradient":
        return stacked
    # Per voxel of the 128 grid, whichever grid it was computed on.
    stacked = gradient_magnitude(stacked, sampling.sigma)
    return stacked * COARSE_GAIN if factor == 2 else stacked


def draw_box(rng: np.random.Generator, scan: CachedScan, options: Augmentation) -> Box:
    """The moving image's box: both lungs or one, with margins drawn per face."""
    box = scan.box
    if scan.side_boxes and rng.random() < options.one_lung_share:
        box = scan.side_boxes[int(rng.integers(len(scan.side_boxes)))]
    low, high = options.box_margin
    return _grown(box, rng.uniform(low, high, (2, 3)))


def _grown(box: Box, parts: np.ndarray) -> Box:
    """The box larger by (2, 3) parts of its sides, at its lower and its upper faces."""
    grow = parts * box.extent
    return Box(np.asarray(box.lower) - grow[0], np.asarray(box.upper) + grow[1])


def draw_deformation(rng: np.random.Generator, sampling: Sampling) -> Deformation:
    """T1 and T2 with, by share, larger or smaller amplitudes and a moving
    box that differs from the fixed one."""
    options = sampling.augmentation
    amplitude = (1.0, 1.0, 1.0)
    large, factor = rng.random() < options.large_share, rng.uniform(1, options.large_amplitude, 2)
    if large:
        amplitude = (1.0, float(factor[0]), float(factor[1]))
    part = 1.0
    if options.small_share and rng.random() < options.small_share:
        part = float(rng.random())
        amplitude = (1.0, part, part)
    scale, shift = (1.0,) * 3, (0.0,) * 3
    changed, faces = rng.random() < options.box_change_share, rng.uniform(-1, 1, (2, 3))
    if changed and options.box_change:
        lower, upper = faces * (options.box_change * part)
        scale = tuple((1 + upper - lower).tolist())
        # Face to face: outer faces lie half a voxel past the first and last index.
        shift = tuple(((lower + 0.5 / FINE) * FINE - 0.5 * (1 + upper - lower)).tolist())
    if options.rough_share and rng.random() < options.rough_share:
        amplitude = (*amplitude[:2], amplitude[2] * float(rng.random()))
    breathing = options.breathing_share and rng.random() < options.breathing_share
    if options.still_share and rng.random() < options.still_share:
        amplitude, scale, shift, breathing = (1.0, 0.0, 0.0), (1.0,) * 3, (0.0,) * 3, False
    smooth = partial(draw_breathing, modes=known_modes(sampling.breathing_modes)) if breathing else None
    out = draw(rng, sampling.table, amplitude, scale, shift, smooth=smooth)
    if sampling.generator == "gryds":
        out = GrydsDeformation(out.t1, out.t21, out.t22, out.box_scale, out.box_shift)
    return out


@dataclass(frozen=True)
class Grids:
    """The grids of a network whose full one has ``shape`` (x, y, z) cells, by the side that they would have
    in 128^3."""

    shape: tuple[int, int, int] = (FINE,) * 3

    def lattice(self, side: int, pad: int = 0) -> Lattice:
        x, y, z = (n * side // FINE for n in self.shape)
        return Lattice((x, y, z), pad)


CUBE = Grids()


def make_sample(
    scan: CachedScan,
    rng: np.random.Generator,
    sampling: Sampling,
    side: int,
    target_side: int,
    grids: Grids = CUBE,
) -> Sample:
    """Draw and render one sample from a scan."""
    options = sampling.augmentation
    box = draw_box(rng, scan, options)
    flip = options.flip and rng.random() < 0.5
    # Drawn on the CPU, so that no rounding of a device decides whether a draw folds.
    device = scan.volume.device
    deformation = draw_deformation(rng, sampling).to(device)
    spacing = box.extent / FINE
    # Fine index -> voxel of the volume; a flip runs through the box from its other end.
    step = spacing / np.asarray(scan.spacing)
    start = (np.asarray(box.lower) + spacing / 2 - np.asarray(scan.origin)) / np.asarray(scan.spacing)
    if flip:
        start[0] += step[0] * (FINE - 1)
        step[0] = -step[0]
    lattice = grids.lattice(64, 1)
    inner = slice(1, -1)
    u = deformation.t2_field(lattice)
    u1 = deformation.t1_field(lattice)
    both = deformation.t1_of_t2(u, lattice) - identity(lattice, device)
    if side == FINE:
        grid = identity(grids.lattice(FINE), device)
        moving_at, fixed_at = grid + _to_fine(u1), grid + _to_fine(both)
        volume, factor = scan.volume, 1
    else:
        grid = identity(grids.lattice(64), device)
        moving_at = grid + u1[:, inner, inner, inner]
        fixed_at = grid + both[:, inner, inner, inner]
        volume, factor = scan.coarse, 2

    def voxels(at: torch.Tensor, coarse: bool) -> torch.Tensor:
        index = at * _along(step, device)
        index += _along(start, device)
        return (index - 0.5) / 2 if coarse else index

    look = draw_appearance(rng, options, factor)
    hide = look.hides and box.extent[0] < 0.75 * scan.box.extent[0]
    looks = []
    for k, at in enumerate((fixed_at, moving_at)):
        image = sample_volume(volume[None], voxels(at, factor == 2))[0]
        if hide:
            image = image * _near_one_lung(scan, box, voxels(at, True))
        looks.append(look.apply(image, k))
    images = as_input(looks, sampling, factor)

    if target_side == FINE:
        target, fixed_at_target = _to_fine(u), fixed_at
        moved = fixed_at if sampling.mask_moved_with == "t1t2" else moving_at
    else:
        target = u[:, inner, inner, inner]
        grid = identity(grids.lattice(64), device)
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


def make_phantom_sample(
    pair: PhantomPair,
    rng: np.random.Generator,
    sampling: Sampling,
    side: int,
    target_side: int,
    grids: Grids = CUBE,
) -> Sample:
    """A sample from a made-up chest: either phase is fixed, each image has its own box, matched as the engine
    does but for the drawn change of the moving one; the motion is the phantom's."""
    options = sampling.augmentation
    fixed, moving, field, matched = pair.exhale, pair.inhale, pair.forward, pair.boxes
    if rng.random() < 0.5:
        fixed, moving, field, matched = moving, fixed, pair.backward, matched[::-1]
    margin = rng.uniform(*options.box_margin, (2, 3))
    changed, faces = rng.random() < options.box_change_share, rng.uniform(-1, 1, (2, 3))
    change = faces * options.box_change if changed else 0.0
    boxes = [_grown(matched[0], margin), _grown(matched[1], margin + change)]
    flip = options.flip and rng.random() < 0.5
    look = draw_appearance(rng, replace(options, density=0.0), FINE // side)

    def linear(scale: np.ndarray, shift: np.ndarray, at: torch.Tensor) -> torch.Tensor:
        return at * _along(scale, at.device) + _along(shift, at.device)

    def world(box: Box, at: torch.Tensor) -> torch.Tensor:
        """Fine index -> LPS mm; a flip runs from the box's other side."""
        step, start = box.extent / FINE, np.asarray(box.lower) + box.extent / FINE / 2
        if flip:
            start[0] += step[0] * (FINE - 1)
            step[0] = -step[0]
        return linear(step, start, at)

    def index(box: Box, at: torch.Tensor) -> torch.Tensor:
        """LPS mm -> fine index."""
        step, start = box.extent / FINE, np.asarray(box.lower) + box.extent / FINE / 2
        if flip:
            start[0] += step[0] * (FINE - 1)
            step[0] = -step[0]
        return linear(1 / step, -start / step, at)

    def voxels(scan: CachedScan, at: torch.Tensor, coarse: bool) -> torch.Tensor:
        spacing, origin = np.asarray(scan.spacing), np.asarray(scan.origin)
        found = linear(1 / spacing, -origin / spacing, at)
        return (found - 0.5) / 2 if coarse else found

    coarse = side != FINE
    grid = identity(grids.lattice(side), field.device)
    images = [
        look.apply(
            sample_volume(
                (scan.coarse if coarse else scan.volume)[None], voxels(scan, world(box, grid), coarse)
            )[0],
            k,
        )
        for k, (scan, box) in enumerate(((fixed, boxes[0]), (moving, boxes[1])))
    ]
    rendered = max(64, target_side)
    at = identity(grids.lattice(rendered), field.device)
    x = world(boxes[0], at)
    spacing, origin = np.asarray(pair.truth.spacing), np.asarray(pair.truth.origin)
    y = x + sample_volume(field, linear(1 / spacing, -origin / spacing, x))
    target = index(boxes[1], y) - at
    where = voxels(fixed, x, True)
    lung = sample_volume(fixed.masks[:1], where)
    mask = MASKS.index(sampling.mask)
    inside = sample_volume(fixed.masks[mask : mask + 1], where)
    weight = (inside >= 0.5).float() + (sampling.lung_weight - 1) * lung
    target, weight, lung = target[None], weight[None], lung[None]
    if target_side < rendered:
        target, weight, lung = (F.avg_pool3d(t, rendered // target_side) for t in (target, weight, lung))
    grid_spacing = tuple((boxes[0].extent / FINE).tolist())
    return Sample(as_input(images, sampling, FINE // side), target, weight, lung, grid_spacing, fixed.name)


def _near_one_lung(scan: CachedScan, box: Box, index: torch.Tensor) -> torch.Tensor:
    """1 near the lung whose box this is, 0 elsewhere: images that come masked to one lung."""
    centres = [abs(float(b.centre[0] - box.centre[0])) for b in scan.side_boxes]
    side = 1 + int(np.argmin(centres)) if len(centres) == 2 else 0
    mask = F.max_pool3d(scan.masks[None, side : side + 1], 5, 1, 2)[0]
    return (sample_volume(mask, index)[0] >= 0.5).float()
