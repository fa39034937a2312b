"""The volumes in a folder of DICOM files: by series,
and within a series by whatever tells its slices apart."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .dicom import PHASE_TAGS, Header, Slice, dicom_files, is_dicom, pixel_stack, read_slices
from .dicom_volume import heights_along, plan, to_image

MIN_SLICES = 8
SAME_PLACE_MM = 1e-2
DESCRIPTION = "SeriesDescription"
BY_NUMBER = "InstanceNumber"  # the last resort: passes over the same positions, one after the other
MOST_LISTED = 24
MOST_NAMED, MOST_LOOKED_AT = 4, 1000  # folders with DICOM files, where the one given has none
FEW = 0.2  # share of slices that may belong to stray stacks


@dataclass(frozen=True)
class Volume:
    """Slices that make one volume, sorted along their normal.

    Attributes
    ----------
    phase : (tag, value) that tells it from the others of its series, or None.
    unclear : the slices hold several volumes that nothing tells apart: how many images at one position, and
        where.
    """

    header: Header
    slices: tuple[Slice, ...]
    phase: tuple[str, str] | None = None
    unclear: tuple[int, str] | None = None

    @property
    def uid(self) -> str:
        """The series instance UID."""
        return self.header.series

    @property
    def label(self) -> str:
        """How a user tells it from others: number, description and phase."""
        parts = [str(self.header.number)] if self.header.number is not None else []
        if self.header.description:
            parts.append(f'"{self.header.description}"')
        if self.phase is not None:
            parts.append("{}={}".format(*self.phase))
        return " ".join(parts)

    def slice_spacing(self) -> float:
        """mm: the median from slice to slice; a single slice's thickness."""
        gaps = np.diff(heights_along(self.slices))
        return float(np.median(gaps)) if len(gaps) else self.slices[0].thickness

    def remark(self) -> str:
        """What stands against reading it, or what reading will do to it; "" when there is nothing."""
        if self.unclear:
            return f"{self.unclear[0]} images at one position"
        try:
            return "; ".join(plan(self.slices, "it").notes)
        except InputError as error:
            return str(error)

    def read(self, name: str, notes: list[str]) -> sitk.Image:
        """The volume in HU; see ``dicom_volume``."""
        if self.unclear:
            raise InputError(
                f"{name} holds several volumes in one series ({self.unclear[0]} images at one "
                f"position, as in {self.unclear[1]}), and no tag tells them apart; give a folder with "
                "one phase."
            )
        return to_image(self.slices, name, notes)


def find_volumes(files: Iterable[Path]) -> list[Volume]:
    """The volumes in DICOM files, those of most slices first; scouts and what is no image are left out.

    Raises
    ------
    InputError : a file is damaged, or an image without a position.
    """
    return volumes_of(read_slices(path) for path in files)


def volumes_of(read: Iterable[tuple[Header, list[Slice]]]) -> list[Volume]:
    """The same from files that were read already."""
    groups: list[tuple[Header, list[Slice]]] = []
    for header, slices in read:
        for item in slices if not header.localizer else ():
            home = next((group for _, group in groups if _goes_with(item, group[0])), None)
            if home is None:
                groups.append((header, [item]))
            else:
                home.append(item)
    found = [volume for header, slices in groups for volume in _split(header, slices)]
    found.sort(key=lambda v: (-len(v.slices), v.header.number or 0, v.phase or ("", "")))
    return found


def read_folder(folder: Path, wanted: str | None, option: str | None, notes: list[str]) -> sitk.Image:
    """The folder's volume, or the ``wanted`` one of several; raises InputError."""
    files = dicom_files(folder)
    if not files:
        below = _folders_with_dicom(folder)
        advice = (
            f"one of those below it: {'; '.join(below)}"
            if below
            else "a folder of DICOM files or an image file"
        )
        raise InputError(f"{folder} holds no DICOM series; give {advice}.")
    volume = choose(find_volumes(files), wanted, str(folder), option)
    return volume.read(f"The DICOM series in {folder}", notes)


def read_file(path: Path, wanted: str | None, option: str | None, notes: list[str]) -> sitk.Image:
    """The volume in one file: an Enhanced CT, or a single slice, which is a volume of one."""
    header, slices = read_slices(path)
    if not slices:
        what = (
            f"a DICOM file of the kind {header.modality}"
            if header.modality
            else "a DICOM file without an image"
        )
        raise InputError(f"{path} is {what}, no CT; give a CT series.")
    if len(slices) == 1:
        return to_image(slices, str(path), notes)
    return choose(find_volumes([path]), wanted, str(path), option).read(str(path), notes)


def choose(volumes: Sequence[Volume], wanted: str | None, place: str, option: str | None) -> Volume:
    """The volume that a user means by a series' number, description or UID (or its end), or by ``TAG=VALUE``;
    else the largest, when no other is of like size.

    Raises
    ------
    InputError : none, or several; the sentence lists them.
    """
    if not volumes:
        raise InputError(f"{place} holds no DICOM slices of an image; give a folder with a CT series.")
    how = (
        f"choose one with {option} by number, description, TAG=VALUE or the end of its UID"
        if option
        else ("give a folder with one")
    )
    if wanted:
        chosen = _matching(volumes, wanted.strip())
        if len(chosen) != 1:
            listed = chosen or volumes
            raise InputError(
                f"{place} holds {len(chosen)} series that {wanted} names; "
                f"{'they are' if chosen else 'it has'}: {_listed(listed)}."
            )
        return _large_enough(chosen[0], place)
    images = [v for v in volumes if v.header.modality == "CT"] or list(volumes)
    largest = images[0]
    rivals = [v for v in images if len(v.slices) > 0.5 * len(largest.slices)]
    if len(rivals) > 1:
        if len({v.uid for v in rivals}) == 1 and largest.phase:
            tag, counts = largest.phase[0], {v.phase[1]: len(v.slices) for v in rivals if v.phase}
            values = [f"{value} ({count} images)" for value, count in counts.items()]
            shown = ", ".join(values[:MOST_LISTED]) + (", ..." if len(values) > MOST_LISTED else "")
            advice = f"choose one with {option or 'the series'} {tag}=VALUE"
            raise InputError(
                f"{place} holds several volumes in one series, which {tag} tells apart: {shown}; {advice}."
            )
        raise InputError(f"{place} holds several series of like size, so {how}: {_listed(rivals)}.")
    return _large_enough(largest, place)


def _goes_with(item: Slice, other: Slice) -> bool:
    """Of one series, and neither across one another nor of another field of view."""
    return (
        item.series == other.series
        and item.size == other.size
        and np.abs(item.row - other.row).max() < 1e-2
        and np.abs(item.column - other.column).max() < 1e-2
        and np.abs(np.subtract(item.spacing, other.spacing)).max() < 1e-3
    )


def _large_enough(volume: Volume, place: str) -> Volume:
    if len(volume.slices) < MIN_SLICES:
        raise InputError(
            f"The largest DICOM series in {place} has {len(volume.slices)} slice(s); a CT volume needs "
            f"at least {MIN_SLICES}."
        )
    return volume


def _listed(volumes: Sequence[Volume]) -> str:
    ordered = sorted(volumes, key=lambda v: (v.header.number or 0, v.label))
    texts = [
        f"{v.label or 'a series'} ({len(v.slices)} slices, UID ...{v.uid[-8:]})"
        for v in ordered[:MOST_LISTED]
    ]
    more = f"; and {len(ordered) - MOST_LISTED} more" if len(ordered) > MOST_LISTED else ""
    return "; ".join(texts) + more


def _matching(volumes: Sequence[Volume], wanted: str) -> list[Volume]:
    """By the first way of naming that fits any."""
    phase = re.search(r"(?:^|[\s,/]+)(\w+)\s*=\s*(.+)$", wanted)
    if phase and phase[1].lower() in {tag.lower() for tag in (*PHASE_TAGS, BY_NUMBER)}:
        tag, value = phase[1].lower(), phase[2].strip().strip("\"'")
        volumes = [
            v for v in volumes if v.phase and v.phase[0].lower() == tag and _same_value(v.phase[1], value)
        ]
        wanted = wanted[: phase.start()].strip()
        if not wanted:
            return list(volumes)
    low = wanted.lower().strip("\"'")
    for fits in (
        lambda v: v.uid == wanted,
        lambda v: str(v.header.number) == wanted,
        lambda v: v.header.description.lower() == low,
        lambda v: v.uid.endswith(wanted.lstrip(".")),
        lambda v: low in v.header.description.lower(),
    ):
        chosen = [v for v in volumes if fits(v)]
        if chosen:
            return chosen
    return []


def _same_value(stored: str, typed: str) -> bool:
    """As text without regard to case, or as numbers: a user who reads 100.0 may type 100."""
    if stored.lower() == typed.lower():
        return True
    try:
        return float(stored) == float(typed)
    except ValueError:
        return False


def _split(header: Header, slices: list[Slice]) -> list[Volume]:
    """Slices of one series, one size and one direction, split where they are several volumes."""
    heights = heights_along(slices)
    order = np.argsort(heights, kind="stable")
    slices, heights = [slices[i] for i in order], heights[order]
    places: list[list[Slice]] = []
    last = -np.inf
    for item, height in zip(slices, heights):
        if height - last > SAME_PLACE_MM:
            places.append([])
            last = height
        if item.instance not in {other.instance for other in places[-1]}:
            places[-1].append(item)
    clash = _without_copies(places)
    slices = [item for place in places for item in place]
    if len(places) < MIN_SLICES:
        return [Volume(header, tuple(place[0] for place in places))]
    if clash is None and len(slices) < 2 * MIN_SLICES:
        return [Volume(header, tuple(slices))]
    for tag in (*PHASE_TAGS, BY_NUMBER):
        values = _passes(slices) if tag == BY_NUMBER else [item.tags[tag] for item in slices]
        stacks = _told_apart(slices, values, clash is not None)
        if stacks is not None:
            ordered = sorted(stacks.items(), key=lambda s: (len(s[0]), s[0]))
            out = [Volume(header, tuple(stack), (tag, value)) for value, stack in ordered]
            if tag == DESCRIPTION:  # each volume has its own
                named = [replace(header, description=value) for value, _ in ordered]
                out = [replace(volume, header=own) for volume, own in zip(out, named)]
            return out
    first = tuple(place[0] for place in places)
    return [Volume(header, first, None, clash)]


def _without_copies(places: list[list[Slice]]) -> tuple[int, str] | None:
    """Drop slices whose pixels another at the same position has too;
    returns the first place where different ones remain."""
    clash = None
    for place in places:
        if len(place) > 1:
            stack = pixel_stack(place)
            kept = [
                i for i in range(len(place)) if not any(np.array_equal(stack[i], stack[j]) for j in range(i))
            ]
            place[:] = [place[i] for i in kept]
            if len(place) > 1 and clash is None:
                clash = (len(place), place[0].file.name)
    return clash


def _told_apart(slices: list[Slice], values: list[str], clash: bool) -> dict[str, list[Slice]] | None:
    """Value -> its slices, when each value goes with a volume of its own;
    None when they are one volume's parts."""
    counts = Counter(values)
    if len(counts) < 2 or "" in counts:
        return None
    stacks: dict[str, list[Slice]] = defaultdict(list)
    for item, value in zip(slices, values):
        stacks[value].append(item)
    spread = {value: np.sort(heights_along(stack, slices[0])) for value, stack in stacks.items()}
    if clash and any((np.diff(h) <= SAME_PLACE_MM).any() for h in spread.values()):
        return None
    large = [value for value, count in counts.items() if count >= MIN_SLICES]
    if not large or sum(counts[v] for v in large) < (1 - FEW) * len(slices):
        return None
    if clash:
        return dict(stacks)
    if len(large) < len(counts):
        return None
    # Stacks one after the other are one scan; so are slices that only together lie as close as they are
    # thick.
    for a in large:
        for b in large:
            gap = float(np.median(np.diff(spread[a])))
            overlap = min(spread[a][-1], spread[b][-1]) - max(spread[a][0], spread[b][0])
            thick = float(np.median([item.thickness for item in stacks[a]]))
            if a < b and overlap > 2 * gap and not 0 < thick < 0.75 * gap:
                return dict(stacks)
    return None


def _passes(slices: list[Slice]) -> list[str]:
    """For each slice, the run of instance numbers it belongs to in which
    positions go one way; "" where there is none."""
    given = [item.number for item in slices if item.number is not None]
    if len(given) < len(slices):
        return [""] * len(slices)
    order = sorted(range(len(slices)), key=given.__getitem__)
    heights = heights_along(slices)
    runs: list[list[int]] = [[order[0]]]
    for previous, current in zip(order, order[1:]):
        run = runs[-1]
        if len(run) > 1:
            way = np.sign(heights[run[1]] - heights[run[0]])
            if np.sign(heights[current] - heights[previous]) != way:
                runs.append([])
        runs[-1].append(current)
    names = [""] * len(slices)
    for run in runs:
        numbers = [given[i] for i in run]
        for i in run:
            names[i] = f"{min(numbers)}-{max(numbers)}"
    return names


def _folders_with_dicom(folder: Path) -> list[str]:
    """Some folders below ``folder`` that hold DICOM files: what a user who gave a study's folder meant."""
    found: list[str] = []
    for looked, (place, folders, files) in enumerate(os.walk(folder)):
        folders.sort()
        names = sorted(name for name in files if name.upper() != "DICOMDIR")
        if looked and names and is_dicom(Path(place) / names[0]):
            found.append(place)
        if len(found) == MOST_NAMED or looked == MOST_LOOKED_AT:
            break
    return found
