"""ITK transform files (.h5) that are small: single precision, compressed. ITK's own writer does neither."""

from __future__ import annotations

import os

import numpy as np
import SimpleITK as sitk

from .geometry import Affine, Grid

CHUNK = 1 << 18  # numbers that are compressed together
LEVEL = 1  # of zlib: 4 makes files a tenth smaller and takes half as long again


def write_hdf5(path: str | os.PathLike, grid: Grid, displacement: np.ndarray, outer: Affine | None) -> None:
    """Write x -> outer(x + displacement(x)) as ITK's transform file.

    Parameters
    ----------
    displacement : (z, y, x, 3) float32 mm on ``grid``, LPS, trilinear between its voxels and 0 outside them.

    SimpleITK, ITK and Slicer read it as what ITK itself would have written (a displacement field transform,
    in a composite with the affine one where there is one): HDF5 gives readers doubles, whatever it holds.
    Without h5py, which not every Slicer has, ITK writes, and the file is about ten times larger.
    """
    try:
        import h5py
    except ImportError:
        field = sitk.DisplacementFieldTransform(grid.image(displacement.astype(np.float64)))
        both = field if outer is None else sitk.CompositeTransform([outer.to_transform(), field])
        sitk.WriteTransform(both, str(path))
        return
    text = h5py.string_dtype("ascii")  # ITK reads no other
    parts: list[tuple[str, np.ndarray | None, np.ndarray | None]] = []
    if outer is not None:
        numbers = np.concatenate([outer.matrix.ravel(), outer.offset])
        parts += [("CompositeTransform", None, None), ("AffineTransform", np.zeros(3), numbers)]
    place = np.concatenate([grid.size, grid.origin, grid.spacing, grid.direction]).astype(float)
    parts.append(
        ("DisplacementFieldTransform", place, np.ascontiguousarray(displacement, np.float32).ravel())
    )
    with h5py.File(path, "w") as file:
        versions = {
            "ITKVersion": sitk.Version.ITKVersionString(),
            "HDFVersion": h5py.version.hdf5_version,
            "OSName": "any",
            "OSVersion": "any",
        }
        for name, value in versions.items():
            file.create_dataset(name, data=np.array([value], object), dtype=text)
        for number, (kind, fixed, moving) in enumerate(parts):
            group = file.create_group(f"TransformGroup/{number}")
            group.create_dataset("TransformType", data=np.array([f"{kind}_double_3_3"], object), dtype=text)
            if fixed is not None and moving is not None:
                group.create_dataset("TransformFixedParameters", data=fixed)
                packed = {"compression": "gzip", "compression_opts": LEVEL, "shuffle": True}
                chunks = (min(CHUNK, moving.size),)
                group.create_dataset("TransformParameters", data=moving, chunks=chunks, **packed)
