"""Maps from fixed to moving points, whoever made them: our fields, and whatever transform ITK reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Union

import numpy as np
import SimpleITK as sitk

from .errors import InputError, memory_errors
from .field import DisplacementField
from .foreign_fields import ENDINGS as FIELD_ENDINGS
from .foreign_fields import ItkField, read_field, refuse_known
from .itk import quiet_itk
from .reading.dicom import is_dicom
from .transform_parts import COMPOSITE, INVERSE, kinds, read_inverse

Transform = Union[DisplacementField, sitk.Transform]


def map_points(transform: Transform, points: np.ndarray) -> np.ndarray:
    """T(x) of LPS points (n, 3), mm.

    Examples
    --------
    >>> import SimpleITK as sitk
    >>> map_points(sitk.TranslationTransform(3, (0, 0, 5)), [[1, 2, 3]]).tolist()
    [[1.0, 2.0, 8.0]]
    """
    points = np.asarray(points, float).reshape(-1, 3)
    if isinstance(transform, sitk.Transform):
        return np.array([transform.TransformPoint(p) for p in points.tolist()]).reshape(-1, 3)
    return np.asarray(transform.warp_points(points), float)


def read_transform(path: str | Path, notes: list[str] | None = None) -> Transform:
    """A displacement field, any transform that ITK reads (affine, B-spline, composite), or a DICOM
    Deformable Spatial Registration; ``notes`` gets what was done to it that a user should know.

    Raises
    ------
    InputError : no such file, not a 3D ITK transform or displacement field, or another program's that cannot
        be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no transform file {path}.")
    if path.name.lower().endswith(FIELD_ENDINGS):
        notes = [] if notes is None else notes
        return _with_ants_affine(path, read_field(path, notes), notes)
    if is_dicom(path):
        from .dicom_registration import read_registration

        return read_registration(path)
    refuse_known(path)
    names = kinds(path)
    if any(name.startswith(INVERSE) for name in names):
        return read_inverse(path, [] if notes is None else notes)
    if len(names) > 1 and names[0] != COMPOSITE:
        raise InputError(
            f"{path.name} holds {len(names)} transforms that are not joined ({', '.join(names[:4])}), and "
            "does not say in which order they apply; save them as one composite transform (.h5 or .tfm)."
        )
    spline = next((name for name in names if "SplineKernel" in name), None)
    if spline is not None:
        raise InputError(
            f"{path.name} holds a {spline}, which only Slicer reads; in its Transforms module convert it "
            "into a displacement field over the fixed volume, and save that as .nrrd."
        )
    try:
        with memory_errors(), quiet_itk():
            transform = sitk.ReadTransform(str(path))
    except (RuntimeError, ValueError) as error:  # ValueError: ITK quotes bytes that are no text
        raise InputError(
            f"{path.name} cannot be read as an ITK transform (.h5, .tfm, .txt, .mat) or displacement field "
            "(.nrrd, .nii.gz, .mha)."
        ) from error
    if transform.GetDimension() != 3:
        raise InputError(f"{path.name} is a {transform.GetDimension()}D transform; a 3D one is needed.")
    if transform.GetTransformEnum() in (sitk.sitkDisplacementField, sitk.sitkComposite):
        try:
            field = DisplacementField.read(path)  # ours, or a plain field: it keeps its lattice
            return field if field.outside is not None else ItkField(field.grid, field.displacement)
        except InputError:
            pass
    return transform


def _with_ants_affine(path: Path, field: DisplacementField, notes: list[str]) -> Transform:
    """The field of an ANTs registration with the affine transform that lies beside it: ANTs keeps the two
    in two files, and neither alone is the registration."""
    name = re.fullmatch(r"(.*)1(Inverse)?Warp\.nii(\.gz)?", path.name)
    if name is None:
        return field
    affine = path.with_name(f"{name[1]}0GenericAffine.mat")
    if not affine.is_file():
        return field
    try:
        with quiet_itk():
            outer = sitk.ReadTransform(str(affine))
    except (RuntimeError, ValueError):
        notes.append(f"{affine} belongs to {path.name} and cannot be read, so it was left out.")
        return field
    back = name[2] is not None
    how = "its inverse was applied before" if back else "it was applied after"
    notes.append(f"{affine} belongs to {path.name}: {how} the field, as ANTs does.")
    # ITK applies the last one first
    parts = [field.to_transform(), outer.GetInverse()] if back else [outer, field.to_transform()]
    return sitk.CompositeTransform(parts)
