"""A small made-up pair of chests in files, and the command line run on it within the test's own process.

The network has weights of known output (zero), so with own lung boxes the result is the box-to-box affine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib import cli
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.jobs import Job
from ProgressiveRegistrationLib.landmarks import Landmarks, write_landmarks
from ProgressiveRegistrationLib.network.model import ModelCard, write_model
from ProgressiveRegistrationLib.network.unet import RegistrationUNet
from ProgressiveRegistrationLib.options import Options, PairFiles
from scipy.ndimage import gaussian_filter

SHIFT = np.array([12.0, -20.0, 35.0])
GRID = Grid((46, 36, 40), (5.0, 5.0, 5.0), (-112.5, -87.5, -97.5))


def chest() -> np.ndarray:
    """(z, y, x) int16 HU: a small body with two lungs of half a litre and lumps of tissue in them, in air."""
    x, y, z = np.moveaxis(GRID.points(), -1, 0)
    texture = gaussian_filter(np.random.default_rng(0).standard_normal(GRID.shape), 1.0)
    hu = np.full(GRID.shape, -1000.0)
    hu[(x / 100) ** 2 + (y / 75) ** 2 < 1] = 40
    for side in (-1, 1):
        lung = ((x - side * 45) / 32) ** 2 + (y / 50) ** 2 + (z / 75) ** 2 < 1
        hu[lung] = np.where(texture > 2 * texture.std(), 0, -850)[lung]
    return hu.astype(np.int16)


def write_small_pair(path: Path) -> Path:
    """A pair 42 mm apart, landmarks, labels and a model whose network always answers zero."""
    fixed = GRID.image(chest())
    moving = GRID.image(chest())
    moving.SetOrigin(np.asarray(GRID.origin) + SHIFT)
    sitk.WriteImage(fixed, str(path / "fixed.nrrd"))
    sitk.WriteImage(moving, str(path / "moving.nii.gz"))
    labels = sitk.Cast(moving > -500, sitk.sitkUInt8) * 7
    sitk.WriteImage(labels, str(path / "labels.nrrd"))
    points = np.array([[-45.0, 0, 0], [45, 10, -40], [40, -20, 30], [-50, 10.3, 41.7]])
    names = ["a", "b", "c", "d"]
    write_landmarks(Landmarks(points, names), path / "fixed.mrk.json")
    write_landmarks(Landmarks(points + SHIFT, names), path / "moving.csv")
    write_zero_model(path / "zero")
    return path


def write_dicom(image: sitk.Image, folder: Path, uid: str, description: str = "") -> None:
    """One CT series as files whose names are not in the order of their positions."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    count = image.GetSize()[2]
    for k in range(count):
        part = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        for key, value in (
            ("0008|0060", "CT"),
            ("0008|0016", "1.2.840.10008.5.1.4.1.1.2"),
            ("0008|0018", f"{uid}.{k + 1}"),
            ("0020|000d", "1.2.826.0.1.3680043.2.1"),
            ("0020|000e", uid),
            ("0020|0032", "\\".join(f"{v:.4f}" for v in position)),
            ("0020|0037", "1\\0\\0\\0\\1\\0"),
            ("0020|0013", str(k + 1)),
            ("0028|1052", "0"),
            ("0028|1053", "1"),
            ("0008|103e", description),
        ):
            if value:
                part.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid[-1]}-{(7 * k) % count:03d}.dcm"))
        writer.Execute(part)


def write_zero_model(path: Path) -> None:
    """zero.json and zero.safetensors in a new folder: a small network that answers zero everywhere."""
    path.mkdir()
    weights = {
        key: torch.ones_like(value) if key.endswith("running_var") else torch.zeros_like(value)
        for key, value in RegistrationUNet(width=1, levels=2).state_dict().items()
    }
    card = ModelCard(
        name="zero",
        version="1.0",
        width=1,
        levels=2,
        size=32,
        window=(-1000.0, -100.0),
        sigma=0.5,
        output_unit="voxel",
        training_data=[{"name": "nothing", "licence": "none", "scans": 0}],
        training_steps={"all": 0},
        metrics={},
        weights="",
        sha256="",
    )
    write_model(card, weights, path)


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    capsys.readouterr()
    code = cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def pair(folder: Path) -> list:
    return [folder / "fixed.nrrd", folder / "moving.nii.gz"]


def landmark_options(folder: Path) -> list:
    return ["--fixed-landmarks", folder / "fixed.mrk.json", "--moving-landmarks", folder / "moving.csv"]


def model_options(folder: Path) -> list:
    return ["--model", folder / "zero" / "zero.json", "--preset", "fast", "--device", "cpu"]


def fast_job(folder: Path, output: Path, **options) -> Job:
    """The pair's job with the network that answers zero."""
    chosen = Options(preset="fast", model=str(folder / "zero" / "zero.json"), device="cpu", **options)
    return Job(PairFiles(*pair(folder)), chosen, output)
