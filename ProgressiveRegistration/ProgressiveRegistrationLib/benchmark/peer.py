"""One registration by one of the peers, in a process of its own: a script that needs nothing of this package.

    python peer.py elastix FIXED MOVING OUTPUT --threads 2 [--mask LUNGS] [--weights FILE]

It may run in another environment than this package's: its Python needs the peer and SimpleITK. OUTPUT becomes
an ITK transform (.h5) or displacement field (.nrrd, .nii.gz), fixed -> moving, LPS mm. ITK reads all files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def elastix(fixed: Path, moving: Path, output: Path, mask: Path | None, threads: int, work: Path) -> None:
    import itk

    images = [itk.imread(str(path), itk.F) for path in (fixed, moving)]
    parameters = itk.ParameterObject.New()
    affine = parameters.GetDefaultParameterMap("affine", 5)
    spline = parameters.GetDefaultParameterMap("bspline", 5, 10.0)
    for stage, samples in ((affine, "2000"), (spline, "2000")):
        stage["Registration"] = ["MultiResolutionRegistration"]
        stage["Metric"] = ["AdvancedNormalizedCorrelation"]
        stage["MaximumNumberOfIterations"] = ["1000"]
        stage["NumberOfSpatialSamples"] = [samples]
        stage["NewSamplesEveryIteration"] = ["true"]
        stage["ImageSampler"] = ["RandomCoordinate" if mask is None else "RandomSparseMask"]
        parameters.AddParameterMap(stage)
    options = {"parameter_object": parameters, "log_to_console": False, "number_of_threads": threads}
    if mask is not None:
        options["fixed_mask"] = itk.imread(str(mask), itk.UC)
    _, found = itk.elastix_registration_method(*images, **options)
    itk.imwrite(itk.transformix_deformation_field(images[1], found), str(output), compression=True)


def greedy(fixed: Path, moving: Path, output: Path, mask: Path | None, threads: int, work: Path) -> None:
    from picsl_greedy import Greedy3D

    program = Greedy3D()
    common = f"-threads {threads} -i {fixed} {moving} -m NCC 2x2x2 -n 100x50x10"
    if mask is not None:
        common += f" -gm {mask}"
    program.execute(f"{common} -a -dof 12 -ia-image-centers -o {work / 'affine.mat'}")
    program.execute(f"{common} -it {work / 'affine.mat'} -o {work / 'warp.nii.gz'}")
    chain = f"-r {work / 'warp.nii.gz'} {work / 'affine.mat'}"
    program.execute(f"-threads {threads} -rf {fixed} -rc {work / 'all.nii.gz'} {chain}")
    shutil.move(work / "all.nii.gz", output)


def ants(fixed: Path, moving: Path, output: Path, mask: Path | None, threads: int, work: Path) -> None:
    import ants as program
    import SimpleITK as sitk

    images = [program.image_read(str(path)) for path in (fixed, moving)]
    options = {} if mask is None else {"mask": program.image_read(str(mask))}
    prefix = str(work / "ants_")
    found = program.registration(*images, type_of_transform="SyNCC", outprefix=prefix, **options)
    warp, affine = found["fwdtransforms"]
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(warp, sitk.sitkVectorFloat64))
    sitk.WriteTransform(sitk.CompositeTransform([sitk.ReadTransform(affine), field]), str(output))


def convexadam(fixed: Path, moving: Path, output: Path, mask: Path | None, threads: int, work: Path) -> None:
    import numpy as np
    import SimpleITK as sitk
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(threads)
    target = sitk.ReadImage(str(fixed), sitk.sitkFloat32)
    start = sitk.CenteredTransformInitializer(
        target, sitk.ReadImage(str(moving), sitk.sitkFloat32), sitk.Euler3DTransform()
    )
    shifted = sitk.Resample(
        sitk.ReadImage(str(moving), sitk.sitkFloat32), target, start, sitk.sitkLinear, -1000
    )
    pair = [torch.from_numpy(sitk.GetArrayFromImage(image)) for image in (target, shifted)]
    voxels = np.asarray(convex_adam_pt(*pair, dtype=torch.float32))  # (z, y, x, 3), along z, y, x
    steps = voxels[..., ::-1] * np.asarray(target.GetSpacing())
    field = sitk.GetImageFromArray(steps.astype(np.float64), isVector=True)
    field.CopyInformation(target)
    sitk.WriteTransform(
        sitk.CompositeTransform([sitk.Transform(start), sitk.DisplacementFieldTransform(field)]), str(output)
    )


def unigradicon(
    fixed: Path, moving: Path, output: Path, mask: Path | None, threads: int, work: Path, weights: Path
) -> None:
    """Its own command. Masks are for pairs that have one for each image: not used."""
    import torch
    import unigradicon as program

    torch.set_num_threads(threads)
    given = ["--fixed", fixed, "--moving", moving, "--fixed_modality", "ct", "--moving_modality", "ct"]
    given += ["--transform_out", output, "--network_weights", weights]
    sys.argv = ["unigradicon-register", *map(str, given)]
    program.main()


PEERS: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (elastix, greedy, ants, convexadam, unigradicon)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    for name in ("fixed", "moving", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args()
    files = [path and path.resolve() for path in (given.fixed, given.moving, given.output, given.mask)]
    options = {} if given.weights is None else {"weights": given.weights.resolve()}
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)  # elastix leaves a field where it is run
        PEERS[given.peer](*files, given.threads, Path(work), **options)


if __name__ == "__main__":
    main()
