"""From DICOM slices to a volume: an even, straight grid, by interpolation where the scan had none,
or a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..errors import InputError
from ..geometry import Grid
from .dicom import Slice, pixel_stack

UNEVEN = 0.1  # of the spacing: slices may lie this far from an even lattice
UNEVEN_MM = 0.06  # rounded positions
WIDE = 1.5  # times the gaps around it: a gap in which a slice is missing
SHIFTED_MM = 0.2  # in plane, from which on slices are put straight
JUMP_MM = 1.0  # off a tilted gantry's line, from which on the slices do not belong together
PADDING_HU = -2048  # what scanners write where they did not look


@dataclass(frozen=True)
class Plan:
    """How slices become a volume.

    Attributes
    ----------
    heights : (n,) mm along the normal, from the first slice. shifts : (n, 2) pixels (x, y) in plane, from the
        first.
    even : (m,) mm: heights of the result's slices; ``interpolated``: they are not the slices' own.
    """

    heights: np.ndarray
    shifts: np.ndarray
    even: np.ndarray
    interpolated: bool
    straightened: bool
    notes: tuple[str, ...] = ()


def heights_along(slices: Sequence[Slice], first: Slice | None = None) -> np.ndarray:
    """(n,) mm: positions along the first slice's normal."""
    normal = (first or slices[0]).normal
    return np.array([item.position @ normal for item in slices])


def plan(slices: Sequence[Slice], name: str) -> Plan:
    """Look at positions alone.

    Raises
    ------
    InputError : slices are missing, or do not lie over one another.
    """
    heights = heights_along(slices)
    heights = heights - heights[0]
    gaps = np.diff(heights)
    notes: list[str] = []
    if len(gaps) == 0:
        return Plan(heights, np.zeros((1, 2)), heights, False, False)
    _refuse_missing(slices, gaps, name)
    spacing = heights[-1] / len(gaps)
    lattice = np.arange(len(heights)) * spacing
    interpolated = bool(np.abs(heights - lattice).max() > max(UNEVEN * spacing, UNEVEN_MM))
    if interpolated:
        spacing = max(float(np.percentile(gaps, 10)), heights[-1] / (2 * len(gaps)))
        lattice = np.arange(int(np.floor(heights[-1] / spacing + 1e-6)) + 1) * spacing
        notes.append(
            f"{name} has slices {gaps.min():.3g} to {gaps.max():.3g} mm apart; they were interpolated "
            f"to even {spacing:.3g} mm."
        )
    thick = float(np.median([item.thickness for item in slices]))
    if 0 < thick < 0.6 * np.median(gaps) and np.median(gaps) > 3:
        notes.append(
            f"{name} has slices of {thick:.3g} mm that lie {np.median(gaps):.3g} mm apart: what is between "
            "them was not scanned."
        )
    shifts, straightened = _shifts(slices, heights, name)
    if straightened:
        most = np.linalg.norm(shifts * slices[0].spacing, axis=1).max()
        notes.append(
            f"{name} was scanned with a tilted gantry; its slices, shifted by up to {most:.0f} mm, were put "
            "straight."
        )
    return Plan(heights, shifts, lattice, interpolated, straightened, tuple(notes))


def to_image(slices: Sequence[Slice], name: str, notes: list[str]) -> sitk.Image:
    """The volume of slices sorted along their normal; what was done to them is added to ``notes``."""
    how = plan(slices, name)
    stack = pixel_stack(slices)
    first = slices[0]
    low = np.zeros(2)
    if how.straightened:
        stack, low = _straightened(stack, how.shifts)
    if how.interpolated:
        stack = _interpolated(stack, how.heights, how.even)
    notes += how.notes
    spacing = (
        float(how.even[1] - how.even[0])
        if len(how.even) > 1
        else max(first.thickness, 1e-3)
        if first.thickness
        else 1.0
    )
    origin = first.position + first.row * low[0] * first.spacing[0] + first.column * low[1] * first.spacing[1]
    direction = np.stack([first.row, first.column, first.normal], 1)
    size = (stack.shape[2], stack.shape[1], stack.shape[0])
    return Grid(size, (*first.spacing, spacing), origin, direction.ravel()).image(stack)


def _refuse_missing(slices: Sequence[Slice], gaps: np.ndarray, name: str) -> None:
    """A gap wider than those on both its sides is a slice that was not copied;
    spacing that changes is not."""
    missing, first = 0, None
    for i, gap in enumerate(gaps):
        around = [np.median(part) for part in (gaps[max(0, i - 3) : i], gaps[i + 1 : i + 4]) if len(part)]
        usual = max(around, default=gap)
        if gap > WIDE * usual:
            missing += max(1, round(gap / usual - 1))
            first = first if first is not None else (i, usual)
    if first is not None:
        i, usual = first
        raise InputError(
            f"{name} misses about {missing} slice(s): its slices lie {usual:.3g} mm apart, but "
            f"{gaps[i]:.3g} mm after {slices[i].file.name}; give the complete series."
        )


def _shifts(slices: Sequence[Slice], heights: np.ndarray, name: str) -> tuple[np.ndarray, bool]:
    """(n, 2) pixels in plane, and whether they matter; InputError where they follow no straight line."""
    first = slices[0]
    positions = np.array([item.position for item in slices]) - first.position
    away = np.stack([positions @ first.row, positions @ first.column], 1)
    slope = away[-1] / heights[-1] if heights[-1] else np.zeros(2)
    off = np.linalg.norm(away - heights[:, None] * slope, axis=1)
    if off.max() > JUMP_MM:
        worst = slices[int(off.argmax())].file.name
        raise InputError(
            f"{name} has slices that do not lie over one another ({worst} is {off.max():.0f} mm aside): "
            "they are of several scans; give a folder with one."
        )
    return away / first.spacing, bool(np.abs(away).max() > SHIFTED_MM)


def _straightened(stack: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slices moved in plane onto one canvas, and the canvas's first pixel (x, y)
    seen from the first slice's."""
    low, high = np.floor(shifts.min(0)), np.ceil(shifts.max(0))
    height, width = (int(n + d) for n, d in zip(stack.shape[1:], (high - low)[::-1]))
    fill = PADDING_HU if stack.min() < -500 else stack.min()
    out = np.empty((len(stack), height, width), stack.dtype)
    for k, plane in enumerate(stack):
        x, y = shifts[k] - low
        moved = ndimage.affine_transform(
            plane.astype(np.float32), np.ones(2), (-y, -x), (height, width), order=1, cval=float(fill)
        )
        inside = np.zeros((height, width), bool)
        inside[
            int(np.ceil(y)) : int(np.floor(y)) + plane.shape[0],
            int(np.ceil(x)) : int(np.floor(x)) + plane.shape[1],
        ] = True
        moved[~inside] = fill
        out[k] = np.round(moved) if stack.dtype.kind == "i" else moved
    return out, low


def _interpolated(stack: np.ndarray, heights: np.ndarray, even: np.ndarray) -> np.ndarray:
    """Linear between the two slices next to each height."""
    below = np.clip(np.searchsorted(heights, even, side="right") - 1, 0, len(heights) - 2)
    share = np.clip((even - heights[below]) / (heights[below + 1] - heights[below]), 0, 1)
    out = np.empty((len(even), *stack.shape[1:]), stack.dtype)
    for k, (i, w) in enumerate(zip(below, share)):
        plane = (1 - w) * stack[i].astype(np.float32) + w * stack[i + 1]
        out[k] = np.round(plane) if stack.dtype.kind == "i" else plane
    return out
