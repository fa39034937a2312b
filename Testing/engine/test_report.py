"""The report: its keys, its pictures' colours and directions, and a page that stands alone."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib import colormaps
from matplotlib.image import imread
from ProgressiveRegistrationLib.errors import OutputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Box, Grid
from ProgressiveRegistrationLib.quality import quality_figures
from ProgressiveRegistrationLib.report import charts, page
from ProgressiveRegistrationLib.report import content as report
from ProgressiveRegistrationLib.report import pictures as report_pictures

GRID = Grid((40, 36, 44), (4.0, 4.0, 3.0), (-80.0, -70.0, -60.0))
SHIFT = np.array([0.0, 0.0, 9.0])


def body(shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Tissue with a lung-like ball whose centre is off the middle along every axis."""
    p = GRID.points() - np.asarray(shift)
    ball = ((p - np.array([-20.0, 10.0, 20.0])) ** 2).sum(-1) < 30.0**2
    return np.where(ball, -850, 40).astype(np.int16)


@pytest.fixture(scope="module")
def scene():
    fixed, moving = GRID.image(body()), GRID.image(body(SHIFT))
    mask = GRID.image((body() < -500).astype(np.uint8))
    field = DisplacementField.from_affine(GRID, Affine(np.eye(3), SHIFT))
    points = GRID.index_to_world(np.random.default_rng(0).uniform(12, 24, (30, 3)))
    moved = points + SHIFT + np.random.default_rng(1).normal(0, 1, (30, 3))
    figures = quality_figures(
        field,
        fixed,
        lung_mask=mask,
        fixed_points=points,
        moving_points=moved,
        labels=[f"<b>L{i}</b>" for i in range(30)],
    )
    return SimpleNamespace(fixed=fixed, moving=moving, mask=mask, field=field, figures=figures)


@pytest.fixture(scope="module")
def complete(scene):
    lungs = SimpleNamespace(volume_litres=2.5, box=Box((-50, -20, -10), (10, 40, 50)))
    registration = SimpleNamespace(
        card={"name": "tiny", "version": "1.0", "sha256": "ab" * 32, "training_data": ["made up"]},
        fixed_lungs=lungs,
        moving_lungs=lungs,
        lung_boxes="shared",
        boxes=(Box((-55, -25, -15), (15, 45, 55)), Box((-55, -25, -6), (15, 45, 64))),
        preset="balanced",
        refinement={"steps": np.int64(3), "loss": np.array([1.0, 0.5])},
        device="cpu",
        precision="float32",
        seconds={"lungs": 0.25, "network": 1.0, "total": 1.25},
        notes=["A <script>note</script>."],
    )
    made = report.registration_report(registration, scene.figures)
    made["inputs"] = {
        "fixed": report.describe_image(scene.fixed, "a & b.nrrd"),
        "moving": report.describe_image(scene.moving),
        "landmark_pairing": "label",
    }
    made["protocol"] = report.protocol(made)
    drawn = page.draw(
        scene.field, scene.fixed, scene.moving, lung_mask=scene.mask, landmarks=made["landmarks"]
    )
    return made, drawn


def test_json_has_the_keys_that_others_rely_on(complete):
    made = json.loads(report.to_json(complete[0]))
    for when in ("before", "after"):
        assert set(made["tre_mm"][when]) == {"mean", "sd", "median", "p95", "max", "count"}
    assert made["folding"]["lung_percent"] == made["folding"]["field_of_view_percent"] == 0
    assert made["seconds"]["total"] == 1.25
    assert made["seconds"]["network"] == 1.0
    assert (made["preset"], made["model"]["name"], made["model"]["version"]) == ("balanced", "tiny", "1.0")
    assert (made["device"], made["lung_boxes"], made["outputs"]) == ("cpu", "shared", {})
    assert made["refinement"] == {"steps": 3, "loss": [1.0, 0.5]}
    assert made["boxes_lps_mm"] == {
        "fixed": [[-55, -25, -15], [15, 45, 55]],
        "moving": [[-55, -25, -6], [15, 45, 64]],
    }
    assert made["lungs"]["fixed"]["box_lps_mm"] == [[-50, -20, -10], [10, 40, 50]]
    assert len(made["landmarks"]) == 30


def test_json_never_holds_nan(complete):
    with pytest.raises(ValueError, match="JSON compliant"):
        report.to_json({**complete[0], "extra": float("nan")})


def test_protocol_says_what_is_needed_to_repeat_it(complete):
    text = " ".join(complete[0]["protocol"])
    for part in (
        "landmarks took no part",
        "nothing is snapped to voxels",
        "30 pairs",
        "by their labels",
        "shared",
        "tiny 1.0",
    ):
        assert part in text
    for part in (
        "abababababab",
        "Preset balanced",
        "fades to nothing within about 2 cm",
        "4.00 × 4.00 × 3.00",
        "torch",
    ):
        assert part in text


def test_protocol_without_a_network_says_so(complete):
    made = {**complete[0], "model": {"name": None, "version": None}, "preset": "fast"}
    text = " ".join(report.protocol(made))
    assert "No network ran" in text
    assert "The network's field" not in text


class Page(HTMLParser):
    """Collects addresses and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_stands_alone_is_well_formed_and_escapes_what_people_type(complete):
    html = page.render(*complete)
    parsed = Page(html)
    assert parsed.open == []
    assert parsed.addresses
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in parsed.addresses)
    assert not re.search(r"@import|url\((?!#)", html)
    # its own data and its own code, and nothing that was typed
    assert re.findall(r"<script[^>]*>", html) == ['<script type="application/json" id="volumes">', "<script>"]
    text = "".join(parsed.text)
    assert "A <script>note</script>." in text
    assert "a & b.nrrd" in text
    worst = max(complete[0]["landmarks"], key=lambda row: row["after_mm"])
    assert text.index(worst["label"]) == min(text.index(row["label"]) for row in complete[0]["landmarks"])
    for sentence in complete[0]["protocol"]:
        assert sentence in text


def test_page_without_landmarks_model_or_lungs(scene):
    made = report.evaluation_report(quality_figures(scene.field, scene.fixed), "x.tfm")
    made["seconds"] = {"total": 2.0}
    made["inputs"] = {"fixed": report.describe_image(scene.fixed, "f.nrrd")}
    made["protocol"] = report.protocol(made)
    drawn = page.draw(scene.field, scene.fixed, scene.moving)
    text = "".join(Page(page.render(made, drawn)).text)
    assert "x.tfm was made elsewhere" in text
    assert "Per landmark" not in text
    assert made["tre_mm"] is None
    assert made["folding"]["lung_percent"] is None


def picture(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition("base64,")[2])
    return np.round(imread(io.BytesIO(data), format="png")[..., :3] * 255).astype(int)


def test_overlay_is_grey_where_the_images_agree_orange_and_blue_where_one_is_brighter(complete):
    drawn = complete[1]
    for plane in drawn["planes"]:
        before, after = picture(plane["before"]), picture(plane["after"])
        colourful = [(np.ptp(p, axis=-1) > 60).mean() for p in (before, after)]
        assert colourful[1] < 0.2 * colourful[0] or plane["name"] == "axial"
    coronal = picture(drawn["planes"][0]["before"])
    # The moving ball lies 9 mm higher: blue (fixed is air) at the fixed ball's floor, orange at its roof.
    red, blue = coronal[..., 0] - coronal[..., 2], coronal[..., 2] - coronal[..., 0]
    assert np.argwhere(red > 60)[:, 0].mean() < np.argwhere(blue > 60)[:, 0].mean()
    only_fixed = report_pictures.overlay(np.ones((1, 1)), np.zeros((1, 1)))[0, 0]
    only_moving = report_pictures.overlay(np.zeros((1, 1)), np.ones((1, 1)))[0, 0]
    assert only_fixed[0] > only_fixed[1] > only_fixed[2]
    assert only_moving[2] > only_moving[1] > only_moving[0]
    np.testing.assert_allclose(only_fixed.astype(int) + only_moving, 255, atol=1)


def test_planes_go_through_the_lung_and_show_head_up_and_right_on_the_left(scene):
    planes = {p.name: p for p in report_pictures.choose_planes(scene.fixed, scene.mask)}
    assert [round(planes[n].position_mm) for n in ("sagittal", "coronal", "axial")] == pytest.approx(
        (-20, 10, 20), abs=4
    )
    for axis, name, sign in ((2, "coronal", -1), (2, "sagittal", -1), (1, "axial", 1)):
        plane = planes[name]
        coordinate = plane.upright(plane.grid.points()[..., axis])
        assert np.sign(coordinate[-1, 0] - coordinate[0, 0]) == sign
    x = planes["coronal"].upright(planes["coronal"].grid.points()[..., 0])
    assert x[0, -1] > x[0, 0]  # LPS x grows to the patient's left


def test_slice_is_what_itk_resamples(scene):
    planes = report_pictures.choose_planes(scene.fixed, scene.mask)
    mapping = report_pictures.quick_map(scene.field, planes)
    for plane in planes:
        ours = report_pictures.slice_of(scene.moving, plane, mapping)
        itk = sitk.TranslationTransform(3, SHIFT.tolist())
        np.testing.assert_allclose(ours, report_pictures.slice_of(scene.moving, plane, itk), atol=0.02)


def test_jacobian_picture_marks_folding_growth_and_shrinkage():
    grey = np.full((1, 4), 0.5)
    inside = np.array([[True, True, True, True]])
    made = report_pictures.jacobian_picture(grey, np.array([[-0.2, 1.8, 0.55, 1.0]]), inside).astype(int)[0]
    folded, grown, shrunk, same = made
    assert folded.tolist() == [255, 230, 0]
    assert grown[0] > grown[2] + 50
    assert shrunk[2] > shrunk[0] + 50
    assert np.ptp(same) < 10


def test_jacobian_slice_is_the_volume_s(scene):
    matrix = np.diag([1.2, 0.9, 1.1])
    field = DisplacementField.from_affine(GRID, Affine(matrix, (0, 0, 0)))
    for plane in report_pictures.choose_planes(scene.fixed, scene.mask):
        values = report_pictures.jacobian_slice(field, plane)
        assert values.shape == report_pictures.slice_of(scene.fixed, plane).shape
        np.testing.assert_allclose(values, np.linalg.det(matrix), atol=2e-3)


def test_histogram_counts_every_landmark():
    rng = np.random.default_rng(5)
    before, after = rng.gamma(3, 3, 200), np.append(rng.gamma(2, 0.5, 199), 80.0)
    svg = charts.histogram_svg(before, after, "#123456")
    assert f"before: mean {before.mean():.2f} mm" in svg
    groups = ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}g")
    for group in groups:  # all bars of one set together: its landmarks, each as high as the next
        heights = [float(bar.get("height")) for bar in group]
        assert sum(heights) / min(heights) == pytest.approx(200, rel=0.05)
    assert len(groups) == 2
    assert charts.histogram_svg(np.zeros(3), np.zeros(3), "#123456").startswith("<svg")


def test_colours_are_those_of_matplotlibs_map():
    share = np.linspace(0, 1, 11)
    np.testing.assert_allclose(charts.colours(share), colormaps["RdBu_r"](share)[:, :3], atol=0.02)


def test_files_are_written_whole_or_not_at_all(complete, tmp_path):
    written = page.write_report(complete[0], tmp_path, complete[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert json.loads(written[0].read_text(encoding="utf-8")) == json.loads(report.to_json(complete[0]))
    with pytest.raises(OutputError):
        page.write_report(complete[0], tmp_path / "missing", None)
