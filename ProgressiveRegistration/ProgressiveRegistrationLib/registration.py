"""register(fixed, moving): the one road from two lung CTs to a displacement field."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import Future
from dataclasses import dataclass
from dataclasses import field as field_of
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .field import MAX_SPACING_MM, DisplacementField, box_to_box
from .geometry import Box, Grid
from .images import check_image
from .lungs import Lungs, find_lungs, matched_boxes
from .orientation import mirrored, upside_down
from .presets import DEFAULT, Preset, find_preset
from .progress import Progress, Stop, Work

if TYPE_CHECKING:
    import torch

LEAST_VOXELS = 64  # of the field along each side of the lung box, however small that is
# Shares of the time, for the progress bar only; measured on 2 CPU cores for a 256 x 256 x 130 pair.
SHARES = {"lungs": 1.0, "model": 0.3, "input": 0.5, "network": 1.5, "field": 1.0}
GRID_SIZE = 128  # voxels a side of a lung box where no network says
NAMES = ("the fixed image", "the moving image")


MIN_BOX_GRID = 32  # for a field that is affine anyway


class _NotGiven:
    """Tells "not given" from None."""


_NOT_GIVEN = _NotGiven()


@dataclass(frozen=True)
class Registration:
    """What ``register`` gives.

    Attributes
    ----------
    field : T(x) = x + u(x) from fixed to moving, mm LPS; past its grid the box-to-box affine map.
    seconds : by stage, and ``total``.
    fixed_lungs, moving_lungs : masks and boxes that were found.
    lung_boxes : "own", "shared" or "explicit".
    boxes : (fixed, moving): what the network saw.
    card : of the model; None when no network ran.
    device, precision : that the network ran on.
    preset : its name (``presets.PRESETS``).
    refinement : its settings and convergence; None for the network alone.
    notes : sentences that a user should read.
    """

    field: DisplacementField
    seconds: dict[str, float]
    fixed_lungs: Lungs
    moving_lungs: Lungs
    lung_boxes: str
    boxes: tuple[Box, Box]
    card: Any
    device: str
    precision: str
    preset: str
    refinement: dict[str, Any] | None = None
    notes: list[str] = field_of(default_factory=list)


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    *,
    model: Any = None,
    device: str = "auto",
    lung_boxes: str | tuple[Box, Box] = "own",
    preset: str = DEFAULT,
    fixed_mask: sitk.Image | None = None,
    moving_mask: sitk.Image | None = None,
    names: tuple[str, str] = NAMES,
    mask_names: tuple[str | None, str | None] = (None, None),
    progress: Progress = None,
    cancelled: Stop = None,
    refinement: str | _NotGiven | None = _NOT_GIVEN,
) -> Registration:
    """Register two lung CTs of one patient.

    Parameters
    ----------
    fixed, moving : 3D scalar images in HU; any orientation, spacing, size and numeric type.
    model : None (the default model), a name, a card's path, a loaded ``Model`` (or a ``Future`` of one, which
        may still be loading while the lungs are found), or "none": no network, box-to-box affine only.
    device : auto, cpu, cuda, cuda:N, mps.
    lung_boxes : "own": each image is cropped to its own lungs, and the field is composed with the affine
        map between the two boxes, which matches the lungs' centre and spread; "shared": one box around both,
        as the paper (section II-G); or a (fixed, moving) pair of ``Box``.
    preset : "fast" (the network alone, the paper's mode), "balanced" or "accurate" (see ``presets.py``).
    fixed_mask, moving_mask : optional images above 0 in the lungs; without them the lungs are found.
    names : what notes and errors call the images; mask_names : their masks.
    progress : called with (stage, fraction of the whole job, text).
    cancelled : polled between stages and inside long ones.
    refinement : deprecated, use ``preset``; None meant "fast".

    Raises
    ------
    InputError, NoLungError, ModelError, DeviceError, Cancelled.
    Examples
    --------
    >>> from ProgressiveRegistrationLib import breathing_thorax, register
    >>> pair = breathing_thorax(1, size=(96, 96, 96), spacing=(3.5, 3.5, 3.2), landmarks=50)
    >>> result = register(pair.fixed, pair.moving, preset="fast", device="cpu")
    >>> result.lung_boxes, result.preset, result.card.name
    ('own', 'fast', 'lung-width8')
    >>> result.field.warp_image(pair.moving, pair.fixed).GetSize()
    (96, 96, 96)
    """
    if not isinstance(refinement, _NotGiven):
        warnings.warn(
            "register(refinement=...) is now register(preset=...)", DeprecationWarning, stacklevel=2
        )
        preset = refinement or "fast"
    chosen = find_preset(preset)
    work = Work({**SHARES, "refinement": chosen.share}, progress, cancelled)
    fixed, moving = (
        check_image(image, name[:1].upper() + name[1:]) for image, name in zip((fixed, moving), names)
    )
    with work.stage("lungs", "Finding the lungs") as report:
        fixed_lungs = find_lungs(fixed, mask=fixed_mask, name=names[0], mask_name=mask_names[0])
        report("lungs", 0.5, "Finding the lungs")
        moving_lungs = find_lungs(moving, mask=moving_mask, name=names[1], mask_name=mask_names[1])
        mode, boxes = _boxes(lung_boxes, fixed_lungs, moving_lungs, fixed, moving)
        mode, boxes, said = _or_shared(mode, boxes, fixed, moving, (fixed_lungs, moving_lungs), cancelled)
    with work.stage("model", "Loading the model"):
        where, network = _load(model, device)
    notes = [*fixed_lungs.notes, *moving_lungs.notes, *_implausible(fixed_lungs, moving_lungs), *said]
    size = network.card.size if network is not None else GRID_SIZE
    grids = boxes[0].grid(size), boxes[1].grid(size)
    voxels = None
    if network is not None:
        voxels = _run_network(network, fixed, moving, *grids, work)
        notes += [n for n in network.notes if n not in notes]
        where = network.torch_device
    with work.stage("field", "Making the displacement field"):
        result = _field(voxels, *grids, fixed_lungs)
    convergence = None
    if chosen.refinement is not None:
        with work.stage("refinement", "Refining") as report:
            result, convergence, said = _refined(
                fixed, moving, result, chosen, fixed_lungs, where, report, cancelled
            )
        notes += said
    return Registration(
        field=result,
        seconds=work.total(),
        fixed_lungs=fixed_lungs,
        moving_lungs=moving_lungs,
        lung_boxes=mode,
        boxes=boxes,
        card=network.card if network is not None else None,
        device=network.device if network is not None else str(where),
        precision=getattr(network, "precision", "float32"),
        preset=chosen.name,
        refinement=convergence,
        notes=notes,
    )


def _load(model: Any, device: str) -> tuple[Any, Any]:
    """(torch device, network or None) of what ``register`` was given."""
    if isinstance(model, Future):
        model = model.result()
    from .network.device import choose_device
    from .network.model import load_model

    where = choose_device(device)
    if model == "none":
        return where, None
    if model is None or isinstance(model, (str, os.PathLike)):
        return where, load_model(model, device)
    return where, model


def _field(
    voxels: np.ndarray | None, fixed_grid: Grid, moving_grid: Grid, fixed_lungs: Lungs
) -> DisplacementField:
    """The network's voxels (3, D, H, W), or None,
    as a field in mm that turns into the box-to-box map outside."""
    extent = np.asarray(fixed_grid.size) * fixed_grid.spacing
    lattice = fixed_grid.with_spacing(np.minimum(MAX_SPACING_MM, extent / LEAST_VOXELS))
    residual = np.zeros((*lattice.shape, 3), np.float32)
    if voxels is not None:
        from .network.field import extended_from, smoothed_field

        lungs = lattice.resample(fixed_lungs.mask, interpolator=sitk.sitkNearestNeighbor)
        u = smoothed_field(voxels, fixed_grid, lattice)
        u = extended_from(sitk.GetArrayViewFromImage(lungs) > 0, u, lattice.spacing)
        residual = np.moveaxis(u, 0, -1) @ moving_grid.index_to_world_matrix.T.astype(np.float32)
    return DisplacementField.around(lattice, residual, box_to_box(fixed_grid, moving_grid))


def _refined(
    fixed: sitk.Image,
    moving: sitk.Image,
    start: DisplacementField,
    preset: Preset,
    lungs: Lungs,
    device: torch.device,
    progress: Progress,
    cancelled: Stop,
) -> tuple[DisplacementField, dict[str, Any], list[str]]:
    """The refined field, its convergence for the report, and notes; on the CPU where the device fails."""
    from .network.device import on_gpu_or_cpu
    from .refinement.refine import doubts, refine

    steps: list[dict[str, Any]] = []
    notes: list[str] = []

    def on(where: torch.device) -> DisplacementField:
        steps.clear()
        return refine(
            fixed,
            moving,
            start,
            preset=preset.refinement or DEFAULT,
            mask=lungs.mask,
            device=str(where),
            progress=progress,
            cancelled=cancelled,
            convergence=steps,
        )

    result = on_gpu_or_cpu(device, on, "the refinement", notes)
    if steps[0]["start_share"] < 1:
        begin = "half of the network's field" if steps[0]["start_share"] else "the lung boxes alone"
        notes.append(
            f"The refinement started from {begin}: this explains the images better than the network."
        )
    return result, {"preset": preset.name, "stages": steps}, notes + doubts(steps)


def _boxes(
    wanted: str | tuple[Box, Box],
    fixed_lungs: Lungs,
    moving_lungs: Lungs,
    fixed: sitk.Image,
    moving: sitk.Image,
) -> tuple[str, tuple[Box, Box]]:
    """(mode, (fixed box, moving box))."""
    if wanted == "own":
        return "own", matched_boxes(fixed_lungs, moving_lungs)
    if wanted == "shared":
        both = fixed_lungs.box.union(moving_lungs.box)
        gap = np.linalg.norm(fixed_lungs.box.centre - moving_lungs.box.centre)
        if gap > 0.5 * float(fixed_lungs.box.extent.min()):
            raise InputError(
                f"The lungs of the two images lie {gap:.0f} mm apart, too far for one shared box; use own "
                "lung boxes."
            )
        return "shared", (both, both)
    if isinstance(wanted, (tuple, list)) and len(wanted) == 2 and all(isinstance(b, Box) for b in wanted):
        for box, image, name in ((wanted[0], fixed, "fixed"), (wanted[1], moving, "moving")):
            bounds = Box.around(Grid.from_image(image).corners())
            if np.any(np.asarray(box.lower) > bounds.upper) or np.any(np.asarray(box.upper) < bounds.lower):
                raise InputError(
                    f"The {name} lung box lies outside the {name} image; give LPS coordinates in mm."
                )
        return "explicit", (wanted[0], wanted[1])
    raise InputError(
        f"The lung boxes {wanted!r} are unknown; use 'own', 'shared' or a (fixed, moving) pair of boxes."
    )


def _or_shared(
    mode: str,
    boxes: tuple[Box, Box],
    fixed: sitk.Image,
    moving: sitk.Image,
    lungs: tuple[Lungs, Lungs],
    cancelled: Stop,
) -> tuple[str, tuple[Box, Box], list[str]]:
    """Own boxes squeeze a part of the lungs into the whole: where the lungs leave one image only, one box
    around both is tried beside them, and the boxes that explain the images better are taken."""
    if mode != "own" or set(lungs[0].cut) == set(lungs[1].cut):
        return mode, boxes, []
    both = lungs[0].box.union(lungs[1].box)
    if np.linalg.norm(lungs[0].box.centre - lungs[1].box.centre) > 0.5 * float(both.extent.min()):
        return mode, boxes, []
    from .refinement.explains import unexplained

    # Judged where both frames show lung: what only one of them shows speaks for neither.
    grid = Grid.from_image(lungs[0].mask)
    shown = Grid.from_image(moving).contains(grid.points()) & (sitk.GetArrayViewFromImage(lungs[0].mask) > 0)
    if not shown.any():
        return mode, boxes, []
    mask = grid.image(shown.astype(np.uint8))
    left = []
    for one, other in (boxes, (both, both)):
        field = _field(None, one.grid(MIN_BOX_GRID), other.grid(MIN_BOX_GRID), lungs[0])
        left.append(unexplained(fixed, moving, field, mask, cancelled=cancelled))
    if left[1] >= left[0]:
        return mode, boxes, []
    note = (
        "The lungs leave one of the images: one box around both (--lung-boxes shared) explains the images "
        "better than own boxes, so it was taken; only what both images show can be registered."
    )
    return "shared", (both, both), [note]


def _implausible(fixed_lungs: Lungs, moving_lungs: Lungs) -> list[str]:
    """Sentences about lungs that two scans of one patient rarely have."""
    down = [n for n, lungs in (("fixed", fixed_lungs), ("moving", moving_lungs)) if upside_down(lungs)]
    if down:
        return [
            f"The {' and the '.join(down)} lungs stand upside down, on their apices: check that the "
            f"scan{'s were' if down[1:] else ' was'} not stored with head and feet exchanged."
        ]
    flip = mirrored(fixed_lungs, moving_lungs)
    if flip is not None:
        return [
            f"The moving lungs fit the fixed ones better when flipped {flip}: check that neither scan was "
            "stored mirrored or upside down."
        ]
    ratio = np.asarray(moving_lungs.box.extent) / fixed_lungs.box.extent
    if ratio.max() > 1.5 or ratio.min() < 1 / 1.5:
        return [
            "The lung boxes of the two images differ by more than half in size: check that both show the "
            "same lungs of one patient."
        ]
    return []


def _run_network(
    network: Any, fixed: sitk.Image, moving: sitk.Image, fixed_grid: Grid, moving_grid: Grid, work: Work
) -> np.ndarray:
    """(3, D, H, W) voxels."""
    from .network.passes import answer, first_input, later_passes

    grids = fixed_grid, moving_grid
    with work.stage("input", "Preparing the network's input"):
        images = first_input(network.card, fixed, moving, grids)
    with work.stage("network", "Running the network"):
        voxels = later_passes(network, answer(network, images), fixed, moving, grids)
    if not np.isfinite(voxels).all():
        raise InputError(
            "The network gave no finite field for these images; check their intensities (HU), or use "
            "another model."
        )
    return voxels
