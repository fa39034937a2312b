"""Where the lungs are: a mask and a box, found on a coarse grid so that it takes tenths of a second.

The idea: lung is air of medium density that lies inside the body. Air outside (joined to the image's border
within an axial slice), pure gas (trachea, stomach, bowel) and small or misplaced pockets are taken away;
vessels are filled in.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .constants import NOTHING_HU, PADDING_HU
from .errors import InputError, NoLungError
from .geometry import Affine, Box, Grid

COARSE_MM = 4.0
FINE_MM = 2.0
CLOSING_VOXELS = 3  # over vessels, at that spacing
BOX_MARGIN_MM = 8.0  # chest wall that the box keeps around the lungs: its edges help the network
AIR_HU = -400.0  # below: lung or gas
GAS_HU = -972.0  # below, after smoothing: gas without tissue
DARK_HU = -985.0  # below, after smoothing: surely outside the lungs
EVEN_SD_HU = 12.0  # over 12 mm: lung with its vessels varies more
MIN_LUNG_LITRES = 0.3
MIN_PART_LITRES = 0.1
LUNG_HU = (-985.0, -350.0)
MASK_SHARE, MASK_SHARE_NOTED = 0.25, 0.5  # of a given mask within these: less is no lung, or noted
CUT_SHARE = (
    0.1  # of the lungs' largest cross-section that leaves through a face, from which on a note says so
)
BETWEEN_SHARE = 0.2  # of a cut lung has tissue in front and behind (measured: 0.35 to 0.75, blankets 0.01)
POCKET_LITRES = 0.01  # of bowel, from which on it is looked at
POCKET_HU, POCKET_SHARE = -950.0, 0.2  # how much of a bowel pocket is darker: lung has hardly any


@dataclass(frozen=True)
class Lungs:
    """The lungs of one image.

    Attributes
    ----------
    mask : UInt8 image, 1 inside the lungs (vessels filled), on its own LPS-aligned grid of about 2 mm.
    box : LPS mm, around the mask with a margin; at a face where the lungs leave the image it ends at the
        image.
    volume_litres : of the mask.
    cut : faces through which a good part of the lungs leaves the image: right, left, front, back, bottom,
        top.
    notes : sentences about anything unusual (lungs cut by the image's border, one lung only).
    """

    mask: sitk.Image
    box: Box
    volume_litres: float
    notes: list[str] = field(default_factory=list)
    cut: tuple[str, ...] = ()

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the mask's voxels along x, y, z; LPS mm, (3,) each."""
        grid = Grid.from_image(self.mask)
        index = np.argwhere(sitk.GetArrayViewFromImage(self.mask) > 0)[:, ::-1]
        return grid.index_to_world(index.mean(0)), index.std(0) * np.asarray(grid.spacing)


def find_lungs(
    image: sitk.Image, *, mask: sitk.Image | None = None, name: str = "image", mask_name: str | None = None
) -> Lungs:
    """Find the lungs of a CT in HU, or take them from ``mask``.

    Parameters
    ----------
    image : 3D scalar CT, HU, any orientation, spacing and size.
    mask : optional image on any grid, above 0 inside the lungs: then nothing is searched for.
    name : what errors call the image. mask_name : its mask; None: "of" the image.

    Raises
    ------
    NoLungError : nothing in the image looks like a lung, or the mask is empty.
    Examples
    --------
    >>> from ProgressiveRegistrationLib import breathing_thorax
    >>> pair = breathing_thorax(1, size=(96, 96, 96), spacing=(3.5, 3.5, 3.2), landmarks=1)
    >>> lungs = find_lungs(pair.fixed)
    >>> 2 < lungs.volume_litres < 8, bool(lungs.box.extent.min() > 100)
    (True, True)
    """
    if mask is not None:
        return _from_mask(image, mask, name, mask_name or f"of {name}")
    coarse = _covering_grid(image, COARSE_MM)
    hu, valid = _sample(image, coarse)
    if not (hu[valid] < AIR_HU).any():
        low, high = np.percentile(hu[valid], [0, 100]) if valid.any() else (0, 0)
        raise NoLungError(
            f"No lung was found in {name}: its intensities run from {low:.0f} to {high:.0f}, and lung in "
            f"CT lies near -850 HU; give a chest CT in Hounsfield units."
        )
    lung = _coarse_lungs(hu, valid)
    if lung is None:
        raise NoLungError(
            f"No lung was found in {name}: no air-filled region of more than {MIN_LUNG_LITRES} litre lies "
            f"inside a body (the image is {_extent(image)}); give a chest CT in Hounsfield units, or a "
            "lung mask."
        )
    return _describe(image, _fine_mask(image, coarse, lung), name)


def _extent(image: sitk.Image) -> str:
    """The image's size, for a sentence: a slip in the spacing shows in it."""
    sides = (n * s for n, s in zip(image.GetSize(), image.GetSpacing()))
    return " x ".join(f"{side:.4g}" for side in sides) + " mm"


def matched_boxes(fixed: Lungs, moving: Lungs) -> tuple[Box, Box]:
    """Own boxes of two images: each covers its lungs,
    and the affine map between them matches the lungs' centre and spread.

    Faces alone are a poor match: a few voxels in a sulcus or at a cropped border move them (elastix_lung:
    10.1 mm left after mapping face to face, 4.2 mm after this).
    """
    (fixed_mean, fixed_sd), (moving_mean, moving_sd) = fixed.moments(), moving.moments()
    scale = np.clip(moving_sd / fixed_sd, 0.67, 1.5)
    to_moving = Affine(np.diag(scale), moving_mean - scale * fixed_mean)
    back = to_moving.inverse()
    box = fixed.box.union(Box(back(np.asarray(moving.box.lower)), back(np.asarray(moving.box.upper))))
    return box, Box(to_moving(np.asarray(box.lower)), to_moving(np.asarray(box.upper)))


def _covering_grid(image: sitk.Image, spacing: float, box: Box | None = None) -> Grid:
    """LPS-aligned grid of about ``spacing`` mm over the image (or over a box)."""
    box = box or Box.around(Grid.from_image(image).corners())
    size = np.maximum(1, np.ceil(box.extent / spacing - 1e-6)).astype(int)
    return Grid(tuple(size), (spacing,) * 3, np.asarray(box.lower) + spacing / 2)


def _sample(image: sitk.Image, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """HU (z, y, x) float32 averaged onto the grid, and where the image has data (not outside,
    not padding)."""
    outside = -32000.0
    factors = [
        int(max(1, min(np.floor(grid.spacing[0] / s + 1e-6), n)))
        for s, n in zip(image.GetSpacing(), image.GetSize())
    ]
    image = sitk.BinShrink(image, factors) if max(factors) > 1 else image
    hu = grid.sample(image)
    places = grid.places_in(Grid.from_image(image))
    if places is None:
        covered = sitk.Image(image.GetSize(), sitk.sitkUInt8)
        covered.CopyInformation(image)
        nearest = grid.resample(covered + 1, interpolator=sitk.sitkNearestNeighbor)
        inside = sitk.GetArrayViewFromImage(nearest) > 0
    else:
        x, y, z = ((at >= -0.5) & (at < n - 0.5) for at, n in zip(places, image.GetSize()))
        inside = z[:, None, None] & y[:, None] & x
    hu[~inside] = outside
    valid = hu > PADDING_HU
    hu[~valid] = NOTHING_HU
    return hu, valid


def _litres(mask: np.ndarray, spacing: float = COARSE_MM) -> float:
    return float(mask.sum()) * spacing**3 / 1e6


def _joined_to_border_in_slice(mask: np.ndarray) -> np.ndarray:
    """The part of ``mask`` joined to the border of its axial slice, slice by slice:
    lungs may leave through top and bottom."""
    structure = ndimage.generate_binary_structure(3, 1)
    structure[0] = structure[2] = False
    framed = np.pad(mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    labels, _ = ndimage.label(framed, structure)
    border = np.unique(
        np.concatenate(
            [labels[:, 0].ravel(), labels[:, -1].ravel(), labels[:, :, 0].ravel(), labels[:, :, -1].ravel()]
        )
    )
    touched = np.zeros(labels.max() + 1, bool)
    touched[border] = True
    touched[0] = False
    return touched[labels][:, 1:-1, 1:-1]


def _coarse_lungs(hu: np.ndarray, valid: np.ndarray) -> np.ndarray | None:
    """(z, y, x) bool on the coarse grid, or None."""
    smooth = ndimage.gaussian_filter(hu, 0.8)
    air = (hu < AIR_HU) & valid
    gas = (smooth < GAS_HU) | _even_gas(hu, smooth, air)
    exterior = _joined_to_border_in_slice(air | ~valid)
    lung = _lung_parts(air & ~exterior & ~gas, smooth, valid)
    cut = _lung_cut_by_the_side(lung, smooth, valid, gas, exterior)
    if cut.any():
        # Then only gas and padding that are joined to the border count as outside.
        outer = _joined_to_border_in_slice(_opened(smooth < DARK_HU) | ~valid)
        exterior &= ndimage.binary_dilation(outer, iterations=2, mask=exterior) | ~_near(cut, lung)
        lung = _lung_parts(air & ~exterior & ~_opened(gas), smooth, valid)
    if not lung.any():
        return None
    lung = _without_bowel(_without_neck(lung), hu)
    # close over vessels, and take gas that lies within (emphysema), not what only touches it (trachea)
    closed = ndimage.binary_closing(np.pad(lung, 3), iterations=3)[3:-3, 3:-3, 3:-3]
    return lung | (ndimage.binary_fill_holes(closed) & valid & ~exterior)


def _lung_parts(candidate: np.ndarray, smooth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The components of ``candidate`` that are lung: large, of a lung's density, wrapped in tissue,
    not far below the others."""
    labels, count = ndimage.label(candidate)
    if not count:
        return np.zeros_like(candidate)
    litres = np.bincount(labels.ravel(), minlength=count + 1) * COARSE_MM**3 / 1e6
    keep = [i for i in range(1, count + 1) if litres[i] >= MIN_PART_LITRES]
    # not bowel gas (too dark), nor what lies under a blanket or inside the table (no body around it)
    keep = [i for i in keep if -965 < np.median(smooth[labels == i]) < -450]
    keep = [i for i in keep if _wrapped_in_tissue(labels == i, smooth, valid)]
    # nor the rim of the body in a cropped image
    keep = [i for i in keep if ndimage.binary_erosion(labels == i, iterations=2, border_value=1).any()]
    largest = max(keep, key=lambda i: litres[i], default=0)
    if not keep or litres[largest] < MIN_LUNG_LITRES:
        return np.zeros_like(candidate)
    centre, parts = ndimage.center_of_mass(labels == largest)[0], ndimage.find_objects(labels)
    keep = [i for i in keep if litres[i] >= 0.15 * litres[largest] or parts[i - 1][0].stop > centre]
    return np.isin(labels, keep)


def _without_bowel(lung: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Take away gas-filled bowel that touches the lung through the diaphragm: an appendix below the lung's
    middle, joined to it by a neck of a voxel or two, in which much is pure gas."""
    cores, count = ndimage.label(ndimage.binary_erosion(lung, border_value=1))
    if count < 2:
        return lung
    litres = np.bincount(cores.ravel(), minlength=count + 1) * COARSE_MM**3 / 1e6
    litres[0] = 0
    largest = int(litres.argmax())
    middle = ndimage.center_of_mass(lung)[0]
    pockets = [
        i
        for i in np.flatnonzero(litres > POCKET_LITRES)
        if litres[i] < 0.15 * litres[largest]
        and ndimage.center_of_mass(cores == i)[0] < middle
        and (hu[cores == i] < POCKET_HU).mean() > POCKET_SHARE
    ]
    if not pockets:
        return lung
    # What no core holds goes with the nearest; specks between vessels are no cores of their own.
    chosen = np.where((litres > POCKET_LITRES)[cores], cores, 0)
    nearest = ndimage.distance_transform_edt(chosen == 0, return_distances=False, return_indices=True)
    return lung & ~np.isin(chosen[tuple(nearest)], pockets)


def _without_neck(lung: np.ndarray) -> np.ndarray:
    """Clear the slices above the lungs in which only a rim of the trachea is left."""
    area = lung.sum((1, 2)) * COARSE_MM**2
    low = area <= 600  # mm^2; a trachea has about 300, a throat more, but higher up
    low[: int(np.argmax(area))] = False
    if low.any():
        lung = lung.copy()
        lung[int(np.argmax(low)) :] = False
    return lung


def _lung_cut_by_the_side(
    lung: np.ndarray, smooth: np.ndarray, valid: np.ndarray, gas: np.ndarray, exterior: np.ndarray
) -> np.ndarray:
    """Lung that is joined to the image's border because the image was cropped through it.

    Air outside the body, table foam and blankets have a lung's density in places too, but only a lung is
    wrapped in tissue and goes on in the lung that was found where the slice is closed (when any was).
    """
    core = ndimage.binary_erosion(valid & ~gas & (smooth < -500), iterations=2, border_value=1)
    labels, count = ndimage.label(core)
    litres = np.bincount(labels.ravel(), minlength=count + 1) * COARSE_MM**3 / 1e6
    outer = np.bincount(labels[exterior], minlength=count + 1) * COARSE_MM**3 / 1e6
    cut = [i for i in range(1, count + 1) if outer[i] > 0.02 and litres[i] > MIN_PART_LITRES]
    if lung.any():
        cut = [i for i in cut if (lung & (labels == i)).any()]
        return np.isin(labels, [i for i in cut if _wrapped_in_tissue(labels == i, smooth, valid, reach=2)])
    between = _between_tissue(smooth)
    return np.isin(labels, [i for i in cut if between[labels == i].mean() > BETWEEN_SHARE])


def _between_tissue(smooth: np.ndarray) -> np.ndarray:
    """Where there is tissue both in front and behind: in a body, whatever cuts it;
    not in a blanket or a table."""
    tissue = ndimage.binary_opening(smooth > -250, iterations=2)
    in_front = np.maximum.accumulate(tissue, 1)
    return in_front & np.maximum.accumulate(tissue[:, ::-1], 1)[:, ::-1]


def _even_gas(hu: np.ndarray, smooth: np.ndarray, air: np.ndarray) -> np.ndarray:
    """Gas in stomach, bowel and airways by its evenness, with its partial-volume rim:
    it is not always near -1000 HU."""
    mean = ndimage.uniform_filter(hu, 3)
    variance = ndimage.uniform_filter(hu**2, 3) - mean**2
    core = ndimage.binary_opening((smooth < -930) & (variance < EVEN_SD_HU**2))
    labels, _ = ndimage.label(core)
    large = np.bincount(labels.ravel()) * COARSE_MM**3 / 1e6 > 0.03  # smaller: emphysema
    large[0] = False
    # the core ends where the window of the variance meets the wall
    return ndimage.binary_dilation(large[labels], iterations=6, mask=air)


def _opened(gas: np.ndarray) -> np.ndarray:
    """Without specks: emphysema is gas too, but in small holes."""
    return ndimage.binary_opening(gas, iterations=2)


def _near(*parts: np.ndarray) -> np.ndarray:
    """Within the bounding box of the parts, and 20 mm around it."""
    found = np.argwhere(np.logical_or.reduce(parts))
    low, high = found.min(0) - 5, found.max(0) + 6
    near = np.zeros(parts[0].shape, bool)
    near[tuple(slice(max(0, a), b) for a, b in zip(low, high))] = True
    return near


def _wrapped_in_tissue(part: np.ndarray, smooth: np.ndarray, valid: np.ndarray, reach: int = 0) -> bool:
    """Is the region, grown by ``reach`` voxels, enclosed by tissue rather
    than by gas or a table's thin shell?

    The image's border counts as neither.
    """
    around = tuple(
        slice(max(0, s.start - reach - 4), s.stop + reach + 4)
        for s in ndimage.find_objects(part.astype(np.uint8))[0]
    )
    part, smooth, valid = part[around], smooth[around], valid[around]
    grown = ndimage.binary_dilation(part, iterations=reach) if reach else part
    shell = ndimage.binary_dilation(grown, iterations=3) & ~ndimage.binary_dilation(grown) & valid
    return bool((shell & (smooth > -250)).sum() > 0.5 * shell.sum())


def _fine_mask(image: sitk.Image, coarse: Grid, lung: np.ndarray) -> sitk.Image:
    """The coarse lungs re-drawn at about 2 mm: air near them, vessels closed over."""
    near = ndimage.binary_dilation(lung, iterations=2)
    index = np.argwhere(near)[:, ::-1]
    box = Box.around(coarse.index_to_world(index)).grown(COARSE_MM / 2)
    bounds = Box.around(Grid.from_image(image).corners())
    fine = _covering_grid(
        image, FINE_MM, Box(np.maximum(box.lower, bounds.lower), np.minimum(box.upper, bounds.upper))
    )
    hu, valid = _sample(image, fine)

    def at_fine(mask: np.ndarray) -> np.ndarray:
        return fine.sample(coarse.image(mask.astype(np.float32)), default=0.0)

    weight = at_fine(ndimage.binary_dilation(lung))
    inside = at_fine(lung)
    gas = ndimage.gaussian_filter(hu, 1.0) < GAS_HU
    air = (hu < AIR_HU) & valid & (weight > 0.5) & (~gas | (inside > 0.5))
    closed = _closed(air, CLOSING_VOXELS)
    mask = sitk.GetArrayFromImage(sitk.BinaryFillhole(fine.image(closed.astype(np.uint8)))) > 0
    mask &= valid
    labels, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        mask = np.isin(labels, np.flatnonzero(sizes * FINE_MM**3 / 1e6 > MIN_PART_LITRES / 2))
    return fine.image(mask.astype(np.uint8))


def _closed(mask: np.ndarray, radius: int) -> np.ndarray:
    """Morphological closing of (z, y, x) bool by ITK's ball, as its filter does it in six times the time."""
    wide = np.pad(mask, 2 * radius)
    closed = ~_dilated(~_dilated(wide, radius), radius)
    inner = (slice(2 * radius, -2 * radius),) * 3
    return closed[inner]


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """By ITK's ball: offsets of ``radius`` + 1/2 voxels at most. False within ``radius`` of the border."""
    rows = [mask]  # rows[w]: dilated by w along x
    for w in range(1, radius + 1):
        grown = rows[-1].copy()
        grown[..., w:] |= mask[..., :-w]
        grown[..., :-w] |= mask[..., w:]
        rows.append(grown)
    depth, height = (n - 2 * radius for n in mask.shape[:2])
    out = np.zeros_like(mask)
    inner = out[radius : radius + depth, radius : radius + height]
    for dz in range(2 * radius + 1):
        for dy in range(2 * radius + 1):
            left = (radius + 0.5) ** 2 - (dz - radius) ** 2 - (dy - radius) ** 2
            if left >= 0:
                inner |= rows[min(radius, int(left**0.5))][dz : dz + depth, dy : dy + height]
    return out


def _from_mask(image: sitk.Image, mask: sitk.Image, name: str, mask_name: str) -> Lungs:
    if mask.GetDimension() != 3 or mask.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"The lung mask {mask_name} must be a 3D image with one value per voxel.")
    binary = sitk.Cast(mask > 0, sitk.sitkFloat32)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.Cast(mask > 0, sitk.sitkUInt8))
    if not shape.HasLabel(1):
        raise NoLungError(
            f"The lung mask {mask_name} has no voxel above 0; give a mask that covers the lungs."
        )
    first = np.asarray(shape.GetBoundingBox(1)[:3])
    last = first + np.asarray(shape.GetBoundingBox(1)[3:])
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    world = Grid.from_image(mask).index_to_world(first - 0.5 + corners * (last - first))
    grid = _covering_grid(mask, FINE_MM, Box.around(world))
    values = sitk.GetArrayFromImage(grid.resample(binary)) >= 0.5
    covered = Grid.from_image(image).contains(grid.points().reshape(-1, 3)).reshape(grid.shape)
    if not (values & covered).any():
        raise InputError(f"The lung mask {mask_name} lies outside the image; give a mask of the same scan.")
    notes = _check_inside(image, grid, values & covered, mask_name)
    found = _describe(image, grid.image((values & covered).astype(np.uint8)), name)
    return replace(found, notes=[*notes, *found.notes])


def _check_inside(image: sitk.Image, grid: Grid, inside: np.ndarray, mask_name: str) -> list[str]:
    """A note when much of a mask shows no lung; NoLungError when most of it does not."""
    hu, _ = _sample(image, grid)
    values = hu[inside]
    share = float(((values > LUNG_HU[0]) & (values < LUNG_HU[1])).mean())
    if share > MASK_SHARE_NOTED:
        return []
    median = float(np.median(values))
    said = f"the median intensity inside it is {median:.4g}, and lung in CT lies near -850 HU"
    if share > MASK_SHARE:
        return [f"Much of the lung mask {mask_name} shows no lung: {said}."]
    low, high = np.percentile(values, [1, 99])
    if high - low <= 10:
        why = "the image was scaled"
    elif low >= 0 and 50 < median < 1024 + LUNG_HU[1]:
        why = "the image is stored as HU + 1024"
    else:
        why = "the mask is inverted, or of another organ or scan"
    raise NoLungError(
        f"The lung mask {mask_name} is not of a lung in Hounsfield units: {said}; perhaps {why}; put "
        "that right."
    )


def _describe(image: sitk.Image, mask: sitk.Image, name: str) -> Lungs:
    grid = Grid.from_image(mask)
    values = sitk.GetArrayViewFromImage(mask) > 0
    litres = _litres(values, FINE_MM)
    if litres == 0:
        raise NoLungError(
            f"No lung was found in {name}; give a chest CT in Hounsfield units, or a lung mask."
        )
    half = FINE_MM / 2
    index = [
        np.flatnonzero(values.any(axis=tuple(a for a in range(3) if a != 2 - axis))) for axis in range(3)
    ]
    lower = grid.index_to_world([i[0] for i in index]) - half
    upper = grid.index_to_world([i[-1] for i in index]) + half
    bounds = Box.around(Grid.from_image(image).corners())
    notes = []
    cut_low = lower - np.asarray(bounds.lower) < FINE_MM + 1e-3
    cut_high = np.asarray(bounds.upper) - upper < FINE_MM + 1e-3
    faces = [
        words[axis]
        for cut, words, end in (
            (cut_low, ("right", "front", "bottom"), 0),
            (cut_high, ("left", "back", "top"), -1),
        )
        for axis in range(3)
        if cut[axis] and _share_at(values, 2 - axis, index[axis][end]) > CUT_SHARE
    ]
    if faces:
        notes.append(
            f"The lungs of {name} reach the image's border ({', '.join(faces)}): part of them may be missing."
        )
    lower = np.where(cut_low, bounds.lower, lower - BOX_MARGIN_MM)
    upper = np.where(cut_high, bounds.upper, upper + BOX_MARGIN_MM)
    return Lungs(mask, Box(lower, upper), litres, notes, tuple(faces))


def _share_at(mask: np.ndarray, axis: int, place: int) -> float:
    """The mask's area in one slice across an axis, as a share of the largest there is."""
    areas = mask.sum(tuple(a for a in range(3) if a != axis))
    return float(areas[place] / areas.max())
