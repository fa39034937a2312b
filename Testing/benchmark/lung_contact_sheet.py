"""Draw the lungs found in every scan of a folder tree and in hard variants of them, to be looked at.

python Testing/benchmark/lung_contact_sheet.py ../shared/data -o /tmp/lungs.png [--every N]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError
from ProgressiveRegistrationLib.geometry import Box, Grid
from ProgressiveRegistrationLib.lungs import Lungs, find_lungs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hard_scans import variants


def draw(axes, image: sitk.Image, lungs: Lungs, title: str) -> None:
    """Coronal and axial slice through the most lung, mask in red, box in cyan."""
    box = Box.around(Grid.from_image(image).corners())
    grid = Grid(tuple(np.ceil(box.extent / 2).astype(int)), (2, 2, 2), np.asarray(box.lower) + 1)
    hu = sitk.GetArrayFromImage(grid.resample(image, default=-1024))
    mask = sitk.GetArrayFromImage(grid.resample(lungs.mask, interpolator=sitk.sitkNearestNeighbor))
    low, high = grid.world_to_index(lungs.box.lower), grid.world_to_index(lungs.box.upper)
    y, z = int(np.argmax(mask.sum((0, 2)))), int(np.argmax(mask.sum((1, 2))))
    for axis, (plane, region, vertical) in zip(axes, ((hu[:, y], mask[:, y], 2), (hu[z], mask[z], 1))):
        axis.imshow(plane, vmin=-1100, vmax=200, cmap="gray", origin="lower" if vertical == 2 else "upper")
        axis.contour(region, [0.5], colors="r", linewidths=0.6)
        size = high - low
        axis.add_patch(
            plt.Rectangle((low[0], low[vertical]), size[0], size[vertical], fill=False, ec="c", lw=0.8)
        )
        axis.set_title(title, fontsize=7)
        axis.axis("off")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--variants-of", nargs="*", default=["lidc-0295", "lung1-002", "lungdx-a0001", "ricord1a-001012"]
    )
    options = parser.parse_args()
    files = sorted(f for f in options.data.rglob("*.nrrd") if "mask" not in f.name)
    cells, failed = [], 0
    for file in files:
        image = sitk.ReadImage(str(file))
        named = {file.stem: image}
        if file.stem in options.variants_of:
            named.update({f"{file.stem}: {k}": v for k, v in variants(image, find_lungs(image)).items()})
        for name, scan in named.items():
            start = time.perf_counter()
            try:
                lungs = find_lungs(scan, name=name)
            except ProgressiveRegistrationError as error:
                print("FAILED", error)
                failed += 1
                continue
            seconds = time.perf_counter() - start
            print(
                f"{name:32s} {lungs.volume_litres:5.2f} l {seconds:5.2f} s  {lungs.box.extent.round()} "
                f"{lungs.notes}",
                flush=True,
            )
            cells.append((scan, lungs, f"{name}\n{lungs.volume_litres:.2f} l"))
    columns = 8
    rows = -(-len(cells) // columns)
    figure, axes = plt.subplots(rows, 2 * columns, figsize=(2.4 * columns, 1.45 * rows), squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for number, (scan, lungs, title) in enumerate(cells):
        row, column = divmod(number, columns)
        draw(axes[row, 2 * column : 2 * column + 2], scan, lungs, title)
    figure.tight_layout(pad=0.2)
    figure.savefig(options.output, dpi=110)
    print(f"{len(cells)} drawn, {failed} failed: {options.output}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
