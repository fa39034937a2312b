"""NRRD and MetaImage headers, read before ITK reads the file: can it hold what it claims?

ITK takes the memory that a header asks for before it looks whether the bytes are there, and prints its own
lines when they are not.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError

NRRD_ENDINGS, META_ENDINGS = (".nrrd", ".nhdr"), (".mha", ".mhd")
# Formats that ITK fills up without a word when their uncompressed bytes end early.
UNCHECKED = (
    "VTKImageIO",
    "GiplImageIO",
    "MRCImageIO",
    "GE4ImageIO",
    "GE5ImageIO",
    "GEAdwImageIO",
    "StimulateImageIO",
)
LONGEST_HEADER = 1 << 20
MOST_SMALLER = {"raw": 1, "gzip": 1032, "bzip2": 50_000, "text": 1}  # what the encodings can do at best
NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4
    ),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), 8),
    "float": 4,
    "double": 8,
}
META_BYTES = {
    "CHAR": 1,
    "UCHAR": 1,
    "SHORT": 2,
    "USHORT": 2,
    "INT": 4,
    "UINT": 4,
    "FLOAT": 4,
}  # others: 4 or 8


def nrrd_fields(path: Path) -> dict[str, str]:
    """Fields and key/value pairs of an NRRD header, names in lower case;
    InputError where the data cannot be there.

    Raises
    ------
    InputError : no NRRD header, sizes that the data file cannot hold, a missing data file, coordinates in
        another unit.
    """
    text, length = _text(path, rb"\r?\n\r?\n")
    lines = text.splitlines()
    if not lines or not lines[0].startswith("NRRD"):
        raise InputError(_unreadable(path, "it does not begin as an NRRD file"))
    fields: dict[str, str] = {}
    listed: list[str] = []
    for line in lines[1:]:
        if line.startswith("#"):
            continue
        key, mark, value = line.partition(":=") if ":=" in line else line.partition(": ")
        if fields.get("data file", "").startswith("LIST") and not mark:
            listed.append(line.strip())
        elif mark:
            fields[key.strip().lower()] = value.strip()
    fields["data file"] = fields.get("data file", fields.pop("datafile", ""))
    sizes = _whole_numbers(fields.get("sizes", ""))
    if not sizes or min(sizes) < 1:
        raise InputError(_unreadable(path, f"its sizes are {fields.get('sizes') or 'not given'}"))
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"mm", ""}
    if units:
        raise InputError(f"{path} has its coordinates in {', '.join(sorted(units))}; save it in mm.")
    encoding = fields.get("encoding", "raw").lower()
    encoding = {"gz": "gzip", "bz2": "bzip2"}.get(encoding, encoding if encoding in MOST_SMALLER else "text")
    voxel = NRRD_BYTES.get(fields.get("type", "").lower(), 1)
    if encoding == "text":
        voxel = 1  # at least a digit a value
    source = fields["data file"]
    if source:
        files = _nrrd_files(path, source, listed)
        stored = _sizes_on_disk(path, files)
    else:
        stored = os.path.getsize(path) - length
    _check_room(path, sizes, voxel, stored, MOST_SMALLER[encoding])
    return fields


def meta_fields(path: Path) -> dict[str, str]:
    """Fields of a MetaImage header, names in lower case; see ``nrrd_fields``."""
    text, length = _text(path, rb"ElementDataFile[ \t]*=[^\n]*\n?")
    fields = {
        key.strip().lower(): value.strip()
        for key, _, value in (line.partition("=") for line in text.splitlines())
    }
    source = fields.get("elementdatafile", "")
    if not source:
        raise InputError(_unreadable(path, "its header names no ElementDataFile"))
    sizes = _whole_numbers(fields.get("dimsize", ""))
    if not sizes or min(sizes) < 1:
        raise InputError(_unreadable(path, f"its DimSize is {fields.get('dimsize') or 'not given'}"))
    channels = _whole_numbers(fields.get("elementnumberofchannels", "1"))
    dimensions = _whole_numbers(fields.get("ndims", ""))
    if (
        dimensions != [len(sizes)]
        or not 2 <= len(sizes) <= 4
        or len(channels) != 1
        or not 0 < channels[0] < 1000
    ):
        # ITK's reader crashes on some of these
        raise InputError(
            _unreadable(path, f"its NDims is {fields.get('ndims') or 'not given'} and its DimSize {sizes}")
        )
    voxel = META_BYTES.get(fields.get("elementtype", "").upper().replace("MET_", "").replace("_ARRAY", ""), 4)
    packed = fields.get("compresseddata", "false").lower() in ("true", "1")
    if fields.get("binarydata", "true").lower() in ("false", "0"):
        voxel = 1
    if source.upper() == "LOCAL":
        stored = os.path.getsize(path) - length
    elif source.upper().startswith("LIST"):
        names = [line.strip() for line in _whole_text(path)[length:].splitlines() if line.strip()]
        stored = _sizes_on_disk(path, names)
    else:
        stored = _sizes_on_disk(path, _numbered(source.split()) if "%" in source else [source])
    claimed = fields.get("compresseddatasize", "0")
    if packed and not (claimed.isdigit() and int(claimed) <= stored):
        why = f"its CompressedDataSize is {claimed}, and {stored} bytes are there"
        raise InputError(_unreadable(path, why))
    _check_room(
        path,
        [*sizes, *(c for c in channels if c != 1)],
        voxel,
        stored,
        MOST_SMALLER["gzip" if packed else "raw"],
    )
    return fields


def check_room_of_other(path: Path) -> None:
    """The same for any other format, from what ITK reads of its header; InputError where that cannot be."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    sizes = reader.GetSize()
    plain = sitk.ImageFileReader.GetImageIOFromFileName(
        str(path)
    ) in UNCHECKED and not path.name.lower().endswith(".gz")
    # Text and JPEG hold less than a byte a value.
    voxel = sitk.Image(
        [1] * len(sizes), reader.GetPixelID(), max(1, reader.GetNumberOfComponents())
    ).GetSizeOfPixelComponent()
    _check_room(path, list(sizes), voxel if plain else 1, os.path.getsize(path), 1 if plain else 5000)


def _text(path: Path, end: bytes) -> tuple[str, int]:
    """The header's text, and how many bytes it takes."""
    with open(path, "rb") as file:
        start = file.read(LONGEST_HEADER)
    found = re.search(end, start)
    length = found.end() if found else len(start)
    return start[:length].decode("utf-8", "replace"), length


def _whole_text(path: Path) -> str:
    return path.read_bytes()[:LONGEST_HEADER].decode("latin-1")


def _unreadable(path: Path, why: str) -> str:
    return f"{path} cannot be read as an image: {why}; it is damaged, cut off or no image."


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(v) for v in text.split()]
    except ValueError:
        return []


def _nrrd_files(path: Path, source: str, listed: list[str]) -> list[str]:
    parts = source.split()
    if parts[0] == "LIST":
        return listed
    return _numbered(parts) if len(parts) >= 3 and "%" in parts[0] else [source]


def _numbered(parts: list[str]) -> list[str]:
    """The names of ``pattern first last step``, as both formats have them."""
    try:
        first, last = int(parts[1]), int(parts[2])
        step = int(parts[3]) if len(parts) > 3 else 1
        return [parts[0] % n for n in range(first, last + 1, step or 1)][:100_000]
    except (ValueError, TypeError, IndexError):
        return [parts[0]]


def _sizes_on_disk(path: Path, names: list[str]) -> int:
    total = 0
    for name in names:
        file = path.parent / name
        try:
            total += file.stat().st_size
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} keeps its voxels in {name}, which is not there; copy both files."
            ) from error
        if not file.is_file():
            raise InputError(f"{path} names {name} as the file of its voxels, which is no file.")
    return total


def _check_room(path: Path, sizes: list[int], voxel: int, stored: int, most_smaller: int) -> None:
    needed = voxel
    for size in sizes:
        needed *= max(size, 1)
    if needed > max(stored, 0) * most_smaller + (1024 if most_smaller > 1 else 0):
        raise InputError(
            f"{path} cannot be read as an image: its header tells of {' x '.join(map(str, sizes))} values "
            f"({needed / 1e6:.3g} MB), and {max(stored, 0) / 1e6:.3g} MB are there; it is damaged or cut "
            "off, so copy it again."
        )
