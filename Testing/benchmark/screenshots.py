"""Pictures of the module for the README and the extension catalog, made without the desktop application.

The panel is the real one over PySide6, the slice views are Slicer's own logic and displayable managers,
rendered off screen (Testing/slicer_harness). By default the breathing thorax is registered; other images only
with ``--output`` set to a folder outside the repository, because pictures of patients do not belong in it.

    python Testing/benchmark/screenshots.py --preset balanced
    python Testing/benchmark/screenshots.py --fixed a.nrrd --moving b.nrrd --landmarks c.csv --output
    /tmp/pictures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "ProgressiveRegistration")]
SCREENSHOTS = ROOT / "Resources" / "Screenshots"
THUMBNAIL = ROOT / "ProgressiveRegistration" / "Resources" / "Icons" / "BreathingThorax.png"
VIEW = 420


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="balanced", choices=("fast", "balanced", "accurate"))
    parser.add_argument("--model", default="", help='a model\'s name, or "none"; default: the shipped one')
    parser.add_argument("--fixed", type=Path)
    parser.add_argument("--moving", type=Path)
    parser.add_argument(
        "--landmarks", type=Path, help="CSV with columns baseline_* and followup_* or fixed/moving files"
    )
    parser.add_argument("--columns", nargs=2, metavar=("FIXED", "MOVING"), help="point sets of the CSV")
    parser.add_argument("--exclude", nargs="*", default=[], help="labels to leave out")
    parser.add_argument("--output", type=Path, default=SCREENSHOTS)
    arguments = parser.parse_args()
    if arguments.fixed and ROOT in arguments.output.resolve().parents:
        parser.error("pictures of other data than the phantom must not go into the repository: give --output")

    import slicer_harness

    slicer_harness.install()

    panel = slicer_harness.open_module(slicer_harness.load_module())
    nodes = files(arguments) if arguments.fixed else phantom()
    parameters = panel._parameterNode
    (
        parameters.fixedVolume,
        parameters.movingVolume,
        parameters.fixedLandmarks,
        parameters.movingLandmarks,
    ) = nodes
    parameters.preset = next(p for p in type(parameters.preset) if p.value == arguments.preset)
    parameters.modelName = arguments.model
    arguments.output.mkdir(parents=True, exist_ok=True)

    for markups in nodes[2:]:
        markups.SetDisplayVisibility(False)
    prepare_views(nodes[0])
    show_landmark(panel, 0)
    panel.ui.fusionComboBox.setCurrentIndex(1)
    before = views()
    panel.ui.applyButton.click()
    grabbed = []

    def running():
        if not grabbed and panel.ui.progressBar.value >= 20:
            grabbed.append(grab(panel))
        return panel._task is None

    if not slicer_harness.process_events_until(running, 3600):
        return 1
    print(panel.ui.messageLabel.text)
    result = panel.tre.errors
    print(f"TRE before {result.before.mean():.2f} mm, after {result.after.mean():.2f} mm")
    if not panel._results:
        return 1
    after = views()
    save(arguments.output / "before-after.png", stack([row(before), row(after)], ["Before", "After"]))
    if not arguments.fixed and arguments.output == SCREENSHOTS:
        save(THUMBNAIL, before[1])
    panel.ui.vectorsButton.click()
    nodes[2].SetDisplayVisibility(False)
    show_landmark(panel, 0)
    window = side_by_side(grab(panel), square(views()))
    save(arguments.output / "module.png", window)
    if grabbed:
        save(arguments.output / "running.png", grabbed[0])
    panel.ui.vectorsButton.click()
    panel.ui.fusionComboBox.setCurrentIndex(2)
    save(arguments.output / "checkerboard.png", row(views()))
    for name, mode in (("difference", "Difference in HU"), ("volume-change", "Local volume change")):
        panel.ui.fusionComboBox.setCurrentText(mode)
        save(arguments.output / f"{name}.png", row(views()))
    save(arguments.output / "landmarks.png", suggested_landmark(panel))
    slicer_harness.close_module(panel)
    return 0


def phantom() -> list:
    from ProgressiveRegistrationSlicer import sample_data

    return sample_data.load()


def files(arguments) -> list:
    """The user's own images and landmark CSV as nodes."""
    import slicer
    from ProgressiveRegistrationLib.images import read_image
    from ProgressiveRegistrationLib.landmarks import read_landmarks
    from ProgressiveRegistrationSlicer import mrml, mrml_landmarks

    nodes = []
    for path in (arguments.fixed, arguments.moving):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", path.stem)
        mrml.update_volume(node, read_image(path))
        node.CreateDefaultDisplayNodes()
        nodes.append(node)
    for columns, name in zip(arguments.columns or (None, None), ("fixed landmarks", "moving landmarks")):
        landmarks = read_landmarks(arguments.landmarks, columns=columns).without(arguments.exclude)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        mrml_landmarks.landmarks_to_node(landmarks, node)
        node.CreateDefaultDisplayNodes()
        nodes.append(node)
    return nodes


def prepare_views(fixed) -> None:
    """Three views that show all of the fixed volume."""
    import slicer

    layout = slicer.app.layoutManager()
    for name in layout.sliceViewNames():
        layout.sliceWidget(name).size = (VIEW, VIEW)
    slicer.util.setSliceViewerLayers(background=fixed)
    layout.resetSliceViews()


def show_landmark(panel, row: int) -> None:
    """Click a row of the table, then show everything again: the views only change their plane."""
    import slicer

    panel.tre.jump(row)
    layout = slicer.app.layoutManager()
    point = panel.tre.errors.fixed[panel.tre.order()[row]] * [-1, -1, 1]
    layout.resetSliceViews()
    for name in layout.sliceViewNames():
        layout.sliceWidget(name).mrmlSliceNode().JumpSliceByOffsetting(*point)


def views() -> list:
    """Axial, sagittal and coronal picture as they are now."""
    import slicer

    layout = slicer.app.layoutManager()
    return [layout.sliceWidget(name).image() for name in ("Red", "Green", "Yellow")]


def grab(panel) -> np.ndarray:
    """(rows, columns, 3): the panel."""
    import slicer
    from PySide6.QtGui import QImage

    panel.parent.show()
    slicer.app.processEvents()
    panel.parent.resize(440, panel.layout.totalHeightForWidth(440))
    slicer.app.processEvents()
    image = panel.parent.grab().toImage().convertToFormat(QImage.Format_RGB888)
    values = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return values[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


def suggested_landmark(panel) -> np.ndarray:
    """Suggest landmarks, and show one of them in both volumes as "Side by side" does."""
    import slicer
    import slicer_harness
    from ProgressiveRegistrationSlicer import two_up

    parameters = panel._parameterNode
    parameters.fixedLandmarks = parameters.movingLandmarks = None
    parameters.suggestCount = 12
    panel.ui.suggestButton.click()
    slicer_harness.process_events_until(lambda: panel._task is None, 600)
    layout = slicer.app.layoutManager()
    for name in layout.sliceViewNames():
        layout.sliceWidget(name).size = (VIEW, VIEW)
    panel.review._shown = None
    panel.review.jump()
    print(panel.ui.reviewLabel.text)
    shown = [[layout.sliceWidget(name).image() for name in names] for names in (two_up.FIXED, two_up.MOVING)]
    panel.ui.twoUpButton.click()
    return stack([row(images) for images in shown], ["Fixed", "Moving"])


def row(images: list) -> np.ndarray:
    gap = np.zeros((images[0].shape[0], 4, 3), np.uint8)
    parts = [part for image in images for part in (image, gap)]
    return np.hstack(parts[:-1])


def square(images: list) -> np.ndarray:
    """Three views in a column."""
    gap = np.zeros((4, images[0].shape[1], 3), np.uint8)
    parts = [part for image in images for part in (image, gap)]
    return np.vstack(parts[:-1])


def stack(rows: list, titles: list) -> np.ndarray:
    return np.vstack([part for r, title in zip(rows, titles) for part in (caption(title, r.shape[1]), r)])


def caption(text: str, width: int) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, 28), (31, 42, 54))
    ImageDraw.Draw(image).text((10, 5), text, fill=(255, 255, 255), font=ImageFont.load_default(16))
    return np.asarray(image)


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    height = max(left.shape[0], right.shape[0])

    def padded(image, colour):
        out = np.full((height, image.shape[1], 3), colour, np.uint8)
        out[: image.shape[0]] = image
        return out

    return np.hstack([padded(left, left[-1, 0]), padded(right, 0)])


def save(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    picture = Image.fromarray(image)
    if path == THUMBNAIL:
        picture = picture.resize((260, 260))
    picture.quantize(256).save(path, optimize=True)  # a third of the size
    print(path)


if __name__ == "__main__":
    sys.exit(main())
