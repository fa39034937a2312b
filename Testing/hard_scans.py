"""Variants of a chest CT that lung finders stumble over, each made from a real or synthetic scan."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.lungs import Lungs
from scipy import ndimage


def _with_values(image: sitk.Image, values: np.ndarray) -> sitk.Image:
    return Grid.from_image(image).image(np.clip(np.round(values), -32000, 32000).astype(np.int16))


def _body(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """(HU, mask of the largest piece of tissue, slices filled)."""
    hu = sitk.GetArrayFromImage(image).astype(np.float32)
    tissue = ndimage.binary_opening(hu > -300, iterations=2)
    labels, _ = ndimage.label(tissue)
    body = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return hu, np.stack([ndimage.binary_fill_holes(s) for s in body])


def arms_added(image: sitk.Image) -> sitk.Image:
    """Two cylinders of tissue with bone, touching the flanks, from top to bottom;
    the image is widened for them."""
    wide = sitk.ConstantPad(image, [60, 0, 0], [60, 0, 0], -1000)
    hu, body = _body(wide)
    spacing = np.asarray(image.GetSpacing())
    y, x = np.mgrid[: hu.shape[1], : hu.shape[2]]
    columns, rows = np.flatnonzero(body.any((0, 1))), np.flatnonzero(body.any((0, 2)))
    middle = rows.mean()
    for side, sign in ((columns[0], -1), (columns[-1], 1)):
        distance = np.hypot((x - side - sign * 38 / spacing[0]) * spacing[0], (y - middle) * spacing[1])
        arm = np.where(distance < 12, 700, np.where(distance < 45, 40, np.nan))
        hu = np.where(np.isfinite(arm)[None] & ~body, arm[None], hu)
    return _with_values(wide, hu)


def table_moved(image: sitk.Image) -> sitk.Image:
    """All but the body moved 15 mm up to it, and a foam mattress put between."""
    hu, body = _body(image)
    shift = round(15 / image.GetSpacing()[1])
    rest = np.where(body, -1000, hu)
    moved = np.roll(rest, -shift, 1)
    back = np.flatnonzero(body.any((0, 2)))[-1]
    moved[:, back + 1 : back + 1 + round(50 / image.GetSpacing()[1])] = np.maximum(
        moved[:, back + 1 : back + 1 + round(50 / image.GetSpacing()[1])], -880
    )
    return _with_values(image, np.where(body, hu, moved))


def cropped_to_the_lungs(image: sitk.Image, lungs: Lungs) -> sitk.Image:
    """Cut 10 mm inside the lungs' box, so that lung touches every side but the top and bottom."""
    grid = Grid.from_image(image)
    lower = grid.world_to_index(np.add(lungs.box.lower, (18, 18, 0)))
    upper = grid.world_to_index(np.subtract(lungs.box.upper, (18, 18, 0)))
    low = np.clip(np.ceil(lower), 0, None).astype(int)
    high = np.minimum(np.floor(upper).astype(int) + 1, image.GetSize())
    return image[tuple(slice(int(a), int(b)) for a, b in zip(low, high))]


def one_lung_filled(image: sitk.Image, lungs: Lungs) -> sitk.Image:
    """The lung on the patient's right filled to 0 HU, as by an effusion."""
    grid = Grid.from_image(image)
    mask = sitk.GetArrayFromImage(grid.resample(lungs.mask, interpolator=sitk.sitkNearestNeighbor)) > 0
    hu = sitk.GetArrayFromImage(image)
    middle = grid.world_to_index(lungs.box.centre)[0]
    right = mask & (np.arange(hu.shape[2]) < middle)
    return _with_values(image, np.where(ndimage.binary_dilation(right, iterations=2) & (hu < 0), 0, hu))


def padded(image: sitk.Image) -> sitk.Image:
    """-2048 outside the reconstruction circle."""
    hu = sitk.GetArrayFromImage(image).astype(np.float32)
    y, x = np.mgrid[: hu.shape[1], : hu.shape[2]]
    outside = np.hypot(x / hu.shape[2] - 0.5, y / hu.shape[1] - 0.5) > 0.49
    hu[:, outside] = -2048
    return _with_values(image, hu)


def noisy(image: sitk.Image, sd: float = 120.0) -> sitk.Image:
    """Gaussian noise, clipped at -1024 as scanners do."""
    hu = sitk.GetArrayFromImage(image) + np.random.default_rng(0).normal(0, sd, image.GetSize()[::-1])
    return _with_values(image, np.maximum(hu, -1024))


def thick_slices(image: sitk.Image) -> sitk.Image:
    """Averaged to slices of about 5 mm."""
    return sitk.BinShrink(image, [1, 1, max(1, round(5 / image.GetSpacing()[2]))])


def upside_down(image: sitk.Image) -> sitk.Image:
    """The same scan with all three axes stored the other way round."""
    return sitk.Flip(image, [True, True, True])


def oblique(image: sitk.Image) -> sitk.Image:
    """The same scan resampled on axes turned by some 15 degrees, with its corners outside."""
    turn = sitk.Euler3DTransform((0, 0, 0), 0.15, 0.1, 0.25)
    grid = Grid.from_image(image)
    corner = grid.index_to_world(-0.5 + 0 * np.asarray(grid.size))
    middle = (corner + grid.index_to_world(np.asarray(grid.size) - 0.5)) / 2
    size, spacing = np.asarray(grid.size), np.asarray(grid.spacing)
    direction = np.reshape(turn.GetMatrix(), (3, 3))
    origin = middle - direction @ ((size - 1) / 2 * spacing)
    return Grid(tuple(size), tuple(spacing), tuple(origin), tuple(direction.ravel())).resample(
        image, default=-1024
    )


def variants(image: sitk.Image, lungs: Lungs) -> dict[str, sitk.Image]:
    """Name -> variant of a whole-chest scan whose own lungs are known."""
    return {
        "arms added": arms_added(image),
        "table moved": table_moved(image),
        "cropped": cropped_to_the_lungs(image, lungs),
        "one lung filled": one_lung_filled(image, lungs),
        "-2048 padding": padded(image),
        "noise 120 HU": noisy(image),
        "5 mm slices": thick_slices(image),
        "upside down": upside_down(image),
        "oblique": oblique(image),
    }
