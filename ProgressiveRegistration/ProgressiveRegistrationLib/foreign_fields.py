"""Displacement fields as other programs keep them: each file's own marks say which way it goes,
and in what unit.

===============================  =====================================================================
file                             what becomes of it
===============================  =====================================================================
ITK, ANTs, elastix, plastimatch  vectors in mm, LPS, fixed -> moving: taken as they are
Slicer's NRRD, "modeling"        it maps moving -> fixed: inverted
NIfTI's displacement intent      vectors in RAS, as the format says: turned into LPS
NiftyReg, field or displacement  positions or vectors in RAS: turned into LPS displacements
NiftyReg splines and velocities, refused, with the command of that program that makes a field
FSL, SPM; RAS vectors in NRRD
===============================  =====================================================================

Outside their grid they move nothing, as in ITK.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError, memory_errors
from .field import DisplacementField
from .geometry import Grid
from .itk import quiet_itk
from .reading import headers, nifti
from .transform_parts import inverted

ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz")
NIFTYREG = b"NREG_TRANS"
DISPLACEMENTS_INTENT = 1006  # NIfTI's own: vectors in RAS; Slicer and FreeSurfer write it
NIFTYREG_POSITIONS, NIFTYREG_VECTORS = 0, 1  # intent_p1; others are splines and velocities
FSL_INTENTS = range(2006, 2017)
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
POSITIONS_SLOPE = 0.3  # how near to 1 the vectors' slopes along their own coordinates may come


@dataclass(frozen=True)
class ItkField(DisplacementField):
    """A field that moves nothing outside its grid, as ITK has it: past half a voxel beyond the outermost
    centres u is 0."""

    def sample(self, points: np.ndarray) -> np.ndarray:
        """u at LPS points (..., 3), mm (..., 3), trilinear; 0 outside."""
        u = super().sample(points)
        u[~self.grid.contains(points)] = 0
        return u

    def resample(self, grid: Grid) -> DisplacementField:
        """The same map on another grid, past which it moves nothing."""
        if grid == self.grid:
            return self
        u = super().resample(grid).displacement
        for k in range(grid.shape[0]):  # by slice: bounded memory
            u[k][~self.grid.contains(grid.part(2, k, k + 1).points()[0])] = 0
        return ItkField(grid, u)

    def runs_along(self, grid: Grid) -> bool:
        """Never: ITK says where it ends."""
        return False

    def covering(self, grid: Grid) -> DisplacementField:
        """Itself: there is nothing to continue."""
        return self


def read_field(path: Path, notes: list[str]) -> DisplacementField:
    """The field in an image file, fixed -> moving, mm, LPS; what was done to it is added to ``notes``.

    Raises
    ------
    InputError : no field, damaged, or one of another program's kind that cannot be turned into one.
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return _from_nifti(path, notes)
    fields: dict[str, str] = {}
    try:
        with memory_errors(), quiet_itk():
            if path.name.lower().endswith(headers.NRRD_ENDINGS):
                fields = headers.nrrd_fields(path)
            else:
                headers.meta_fields(path)
            image = sitk.ReadImage(str(path))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a displacement field: it is damaged, cut off or no image."
        ) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(f"{path} is not a displacement field: it needs 3D vectors on a 3D grid.")
    space = fields.get("space", "left-posterior-superior").lower()
    if space in ("right-anterior-superior", "ras", "left-anterior-superior", "las"):
        raise InputError(f"{path} keeps its field in the frame {space}; save it in LPS, as Slicer does.")
    grid = Grid.from_image(image)
    field = _checked(ItkField(grid, sitk.GetArrayFromImage(image)), path)
    if fields.get("displacement field type", "").lower() == "modeling":
        notes.append(
            f'{path} is marked as "modeling": it maps moving to fixed points (Slicer\'s to parent), so its '
            "inverse was taken."
        )
        return inverted(field, path, notes)
    return field


def _from_nifti(path: Path, notes: list[str]) -> DisplacementField:
    content = nifti.load(path)
    header, values = content.header, content.values
    names = header.keys()
    intent = int(header["intent_code"]) if "intent_code" in names else 0
    name = bytes(header["intent_name"].item()) if "intent_name" in names else b""
    about = bytes(header["descrip"].item()).lower()
    if intent in FSL_INTENTS:
        raise InputError(
            f"{path} is a field of FSL's FNIRT, in its own coordinates; turn it into positions or "
            "vectors in mm with convertwarp, and save those as an ITK field."
        )
    if name.startswith(b"Mapping") or about.startswith(b"deformation"):
        raise InputError(
            f"{path} is a deformation of SPM: positions, template -> image; save it as an ITK "
            "displacement field."
        )
    if values.ndim == 4 and values.shape[0] == 3:
        raise InputError(
            f"{path} has its vectors along a fourth axis (as Learn2Reg and VoxelMorph have them), and "
            "says not whether in voxels or mm; save it as an ITK displacement field (5D, mm, LPS)."
        )
    if values.ndim != 5 or values.shape[:2] != (3, 1):
        raise InputError(f"{path} is not a displacement field: it needs 3D vectors on a 3D grid.")
    vectors = np.moveaxis(values[:, 0], 0, -1).astype(np.float64)
    notes += content.notes
    if not name.startswith(NIFTYREG):
        if intent == DISPLACEMENTS_INTENT:
            vectors *= RAS_TO_LPS
        return _checked(ItkField(content.grid, vectors), path)
    kind = float(header["intent_p1"])
    if kind not in (NIFTYREG_POSITIONS, NIFTYREG_VECTORS):
        raise InputError(
            f"{path} holds a control point grid or a velocity field of NiftyReg; turn it into a deformation "
            "field with reg_transform -def, giving the fixed image as -ref."
        )
    vectors *= RAS_TO_LPS
    if kind == NIFTYREG_POSITIONS:
        vectors -= content.grid.points()
    word = "deformation field (positions)" if kind == NIFTYREG_POSITIONS else "displacement field"
    notes.append(f"{path} was read as a {word} of NiftyReg, in RAS.")
    return ItkField(content.grid, vectors)


def _checked(field: ItkField, path: Path) -> ItkField:
    """InputError where the vectors are positions: they grow with their own coordinate, mm by mm."""
    step = tuple(slice(None, None, max(1, n // 16)) for n in field.grid.shape)
    points = field.grid.points()[step].reshape(-1, 3).astype(float)
    vectors = field.displacement[step].reshape(-1, 3).astype(float)
    spread = points.var(0)
    if (spread <= 0).any():
        return field
    slopes = ((points - points.mean(0)) * (vectors - vectors.mean(0))).mean(0) / spread
    if (np.abs(np.abs(slopes) - 1) < POSITIONS_SLOPE).all():
        raise InputError(
            f"{path} holds positions, not displacements (its vectors grow with the place, mm by mm); "
            "subtract the place from each, and save displacements in mm, LPS."
        )
    return field


def refuse_known(path: Path) -> None:
    """InputError that names the program for files that ITK cannot read as a transform, or would misread."""
    with open(path, "rb") as file:
        start = file.read(4096)
    text = start.lstrip()
    parameters = text.startswith((b"(Transform ", b"//")) and b"(Transform " in start
    if parameters or (b"NumberOfParameters =" in start and b"Transform =" in start):  # its .toml
        raise InputError(
            f"{path} holds elastix's parameters; make a field of them with transformix -def all -tp "
            f"{path.name} -out FOLDER, and give its deformationField file."
        )
    if text.startswith(b"MGH_GPUIT_BSP"):
        raise InputError(
            f"{path} holds a B-spline of plastimatch; make a field of it with plastimatch xf-convert "
            f"--input {path.name} --output field.mha --output-type vf."
        )
