"""register(fixed, moving): the one road from two lung CTs to a displacement field."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .field import MAX_SPACING_MM, DisplacementField, box_to_box
from .geometry import Box, Grid
from .images import check_image
from .lungs import Lungs, find_lungs, matched_boxes
from .network.field import extended_from, smoothed
from .progress import Progress, Stages, Stop

PRESETS = ("fast", "balanced", "accurate")
# Shares of the time, for the progress bar only; measured on 2 CPU cores for a 256 x 256 x 130 pair.
SHARES = {"model": 0.3, "lungs": 1.0, "input": 0.5, "network": 1.5, "field": 1.0, "refinement": 10.0}
REFINEMENT_SHARE = {None: 0.0, "balanced": 10.0, "accurate": 29.0}


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
    preset : "fast" (the network alone), "balanced" or "accurate".
    refinement : its settings and convergence; None for "fast".
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
    notes: list[str] = field(default_factory=list)


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    *,
    model: Any = None,
    device: str = "auto",
    lung_boxes: str | tuple[Box, Box] = "own",
    refinement: str | None = None,
    fixed_mask: sitk.Image | None = None,
    moving_mask: sitk.Image | None = None,
    progress: Progress = None,
    cancelled: Stop = None,
) -> Registration:
    """Register two lung CTs of one patient.

    Parameters
    ----------
    fixed, moving : 3D scalar images in HU; any orientation, spacing, size and numeric type.
    model : None (the default model), a name, a card's path, a loaded ``Model``, or "none": no network,
        box-to-box affine only.
    device : auto, cpu, cuda, cuda:N, mps.
    lung_boxes : "own": each image is cropped to its own lungs, and the field is composed with the affine map
        between the two boxes, which matches the lungs' centre and spread; "shared": one box around both, as
        the paper (section II-G); or a (fixed, moving) pair of ``Box``.
    refinement : None (the network alone, the paper's mode), "balanced" or "accurate" (see ``refinement/``).
    fixed_mask, moving_mask : optional images above 0 in the lungs; without them the lungs are found.
    progress : called with (stage, fraction of the whole job, text).
    cancelled : polled between stages and inside long ones.

    Raises
    ------
    InputError, NoLungError, ModelError, DeviceError, Cancelled.
    """
    import torch

    from .network.model import Model, choose_device, load_model

    if refinement == "fast":
        refinement = None
    if refinement not in REFINEMENT_SHARE:
        raise InputError(f"The refinement {refinement!r} is unknown; use None, 'balanced' or 'accurate'.")
    shares = {**SHARES, "refinement": REFINEMENT_SHARE[refinement]}
    stages = Stages(shares, progress, cancelled)
    fixed, moving = check_image(fixed, "The fixed image"), check_image(moving, "The moving image")

    with stages.stage("model", "Loading the model"):
        chosen = choose_device(device)
        if model is not None and not isinstance(model, (str, os.PathLike)):
            network = model
        elif model == "none":
            network = None
        else:
            network = load_model(model, device)

    with stages.stage("lungs", "Finding the lungs") as report:
        fixed_lungs = find_lungs(fixed, mask=fixed_mask, name="the fixed image")
        report("lungs", 0.5, "Finding the lungs")
        moving_lungs = find_lungs(moving, mask=moving_mask, name="the moving image")
        mode, fixed_box, moving_box = _boxes(lung_boxes, fixed_lungs, moving_lungs, fixed, moving)
    notes = [*fixed_lungs.notes, *moving_lungs.notes]
    notes += _implausible(fixed_lungs, moving_lungs)

    size = network.card.size if network is not None else 128
    fixed_grid, moving_grid = fixed_box.grid(size), moving_box.grid(size)
    if network is None:
        voxels = np.zeros((3, *fixed_grid.shape), np.float32)
    else:
        voxels = _run_network(network, fixed, moving, fixed_grid, moving_grid, stages)
        notes += [n for n in network.notes if n not in notes]

    with stages.stage("field", "Making the displacement field"):
        if network is not None:
            lungs = fixed_grid.resample(fixed_lungs.mask, interpolator=sitk.sitkNearestNeighbor)
            voxels = smoothed(voxels, fixed_grid.spacing)
            voxels = extended_from(sitk.GetArrayViewFromImage(lungs) > 0, voxels, fixed_grid.spacing)
        result = DisplacementField.from_voxels(voxels, fixed_grid, moving_grid)
        if max(fixed_grid.spacing) > MAX_SPACING_MM:
            finer = fixed_grid.with_spacing(np.minimum(fixed_grid.spacing, MAX_SPACING_MM))
            result = result.resample(finer)
        result = result.faded(box_to_box(fixed_grid, moving_grid))

    convergence = None
    if refinement is not None:
        from .refinement.refine import doubts, refine

        with stages.stage("refinement", "Refining") as report:
            steps: list[dict[str, Any]] = []
            options = {
                "preset": refinement,
                "mask": fixed_lungs.mask,
                "progress": report,
                "cancelled": cancelled,
                "convergence": steps,
            }
            where = str(network.torch_device if network is not None else chosen)
            try:
                result = refine(fixed, moving, result, device=where, **options)
            except torch.cuda.OutOfMemoryError:
                if where == "cpu":
                    raise
                steps.clear()
                notes.append(f"The memory of {where} was not enough; the refinement ran on the CPU instead.")
                result = refine(fixed, moving, result, device="cpu", **options)
            convergence = {"preset": refinement, "stages": steps}
            if steps[0]["start_share"] < 1:
                start = "half of the network's field" if steps[0]["start_share"] else "the lung boxes alone"
                notes.append(
                    f"The refinement started from {start}: this explains the images better than the network."
                )
            notes += doubts(steps)

    return Registration(
        field=result,
        seconds=stages.total(),
        fixed_lungs=fixed_lungs,
        moving_lungs=moving_lungs,
        lung_boxes=mode,
        boxes=(fixed_box, moving_box),
        card=network.card if network is not None else None,
        device=network.device if network is not None else str(chosen),
        precision=network.precision if isinstance(network, Model) else "float32",
        preset=refinement or "fast",
        refinement=convergence,
        notes=notes,
    )


def _boxes(
    wanted: str | tuple[Box, Box],
    fixed_lungs: Lungs,
    moving_lungs: Lungs,
    fixed: sitk.Image,
    moving: sitk.Image,
) -> tuple[str, Box, Box]:
    """(mode, fixed box, moving box)."""
    if wanted == "own":
        return ("own", *matched_boxes(fixed_lungs, moving_lungs))
    if wanted == "shared":
        both = fixed_lungs.box.union(moving_lungs.box)
        gap = np.linalg.norm(fixed_lungs.box.centre - moving_lungs.box.centre)
        if gap > 0.5 * float(fixed_lungs.box.extent.min()):
            raise InputError(
                f"The lungs of the two images lie {gap:.0f} mm apart, too far for one shared box; use own "
                "lung boxes."
            )
        return "shared", both, both
    if isinstance(wanted, (tuple, list)) and len(wanted) == 2 and all(isinstance(b, Box) for b in wanted):
        for box, image, name in ((wanted[0], fixed, "fixed"), (wanted[1], moving, "moving")):
            bounds = Box.around(Grid.from_image(image).corners())
            if np.any(np.asarray(box.lower) > bounds.upper) or np.any(np.asarray(box.upper) < bounds.lower):
                raise InputError(
                    f"The {name} lung box lies outside the {name} image; give LPS coordinates in mm."
                )
        return "explicit", wanted[0], wanted[1]
    raise InputError(
        f"The lung boxes {wanted!r} are unknown; use 'own', 'shared' or a (fixed, moving) pair of boxes."
    )


def _implausible(fixed_lungs: Lungs, moving_lungs: Lungs) -> list[str]:
    """Sentences about boxes that two scans of one patient rarely have."""
    ratio = np.asarray(moving_lungs.box.extent) / fixed_lungs.box.extent
    if ratio.max() > 1.5 or ratio.min() < 1 / 1.5:
        return [
            "The lung boxes of the two images differ by more than half in size: check that both show the "
            "same lungs of one patient."
        ]
    return []


def _run_network(
    network: Any, fixed: sitk.Image, moving: sitk.Image, fixed_grid: Grid, moving_grid: Grid, stages: Stages
) -> np.ndarray:
    """(3, D, H, W) voxels."""
    import torch

    from .network.input import network_input

    card = network.card
    with stages.stage("input", "Preparing the network's input"):
        images = torch.stack(
            [
                network_input(im, g, card.window, card.sigma)
                for im, g in ((fixed, fixed_grid), (moving, moving_grid))
            ]
        )[None]
    with stages.stage("network", "Running the network"):
        voxels = network.predict(images)
    if not np.isfinite(voxels).all():
        raise InputError(
            "The network gave no finite field for these images; check their intensities (HU), or use "
            "another model."
        )
    return voxels
