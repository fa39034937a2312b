"""report.html in a real browser, from the disk: scrolling, before and after, landmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("playwright", reason="playwright is not installed (extra web-tests)")

from page_driver import array, grave_findings
from playwright.sync_api import expect

PLANES = ("coronal", "axial", "sagittal")


@pytest.fixture(scope="module")
def report_file(tmp_path_factory) -> Path:
    """The report of a known transform of a small phantom."""
    from ProgressiveRegistrationLib.phantom.pair import breathing_thorax

    pair = breathing_thorax(2, size=(80, 80, 64), spacing=(4.3, 4.3, 5.0), tips=300, landmarks=20)
    return written_report(pair, tmp_path_factory.mktemp("report"))


def written_report(pair, folder: Path) -> Path:
    """report.html of a pair and its true transform."""
    from ProgressiveRegistrationLib.quality import quality_figures
    from ProgressiveRegistrationLib.report import content
    from ProgressiveRegistrationLib.report import page as pages

    figures = quality_figures(
        pair.field,
        pair.fixed,
        lung_mask=pair.fixed_lungs,
        fixed_points=pair.fixed_landmarks.points,
        moving_points=pair.moving_landmarks.points,
        labels=["<b>bold</b>", *pair.fixed_landmarks.labels[1:]],
    )
    report = content.evaluation_report(figures, "truth.h5")
    report["inputs"] = {
        side: content.describe_image(getattr(pair, side), f"{side}.nrrd") for side in ("fixed", "moving")
    }
    report["seconds"] = {"total": 1.0}
    report["protocol"] = content.protocol(report)
    drawn = pages.draw(
        pair.field, pair.fixed, pair.moving, lung_mask=pair.fixed_lungs, landmarks=report["landmarks"]
    )
    pages.write_report(report, folder, drawn)
    return folder / "report.html"


@pytest.fixture
def page(browser, report_file):
    context = browser.new_context(viewport={"width": 1100, "height": 900}, offline=True)
    opened = context.new_page()
    problems, asked = [], []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(report_file.as_uri())
    yield opened
    assert problems == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def shown(page, plane: str) -> np.ndarray:
    return array(page.locator(f"canvas#{plane}").screenshot())


def test_every_plane_is_scrolled_by_its_slider(page):
    expect(page.get_by_role("heading", name="Explore")).to_be_visible()
    for plane in PLANES:
        before = shown(page, plane)
        assert before.max() > 150
        where = page.locator(f"#{plane}-mm").inner_text()
        page.locator(f"#{plane}-slice").press("ArrowLeft")
        page.locator(f"#{plane}-slice").press("PageDown")
        expect(page.locator(f"#{plane}-mm")).not_to_have_text(where)
        assert np.abs(shown(page, plane) - before).mean() > 1


def test_colour_is_what_differs_before_and_goes_after(page):
    def colourful() -> float:
        picture = shown(page, "coronal")
        return float(np.abs(picture[..., 0] - picture[..., 2]).mean())

    after = colourful()
    page.locator("#blend").fill("0")
    assert colourful() > 1.5 * after


def test_one_image_alone_has_its_colour(page):
    page.locator("#share").fill("0")
    red, _green, blue = shown(page, "axial").reshape(-1, 3).mean(0)
    assert red > 2 * blue
    page.locator("#share").fill("1")
    red, _green, blue = shown(page, "axial").reshape(-1, 3).mean(0)
    assert blue > 2 * red


def test_a_landmark_takes_the_pictures_to_its_place(page):
    row = page.locator("td.at").nth(4)
    at = [float(v) for v in row.get_attribute("data-at").split()]
    row.get_by_role("button").click()
    for axis, plane in ((1, "coronal"), (2, "axial"), (0, "sagittal")):
        assert float(page.locator(f"#{plane}-mm").inner_text().split()[1]) == pytest.approx(at[axis], abs=1.0)


def test_a_click_in_a_picture_moves_the_other_two(page):
    before = page.locator("#explore-at").inner_text()
    page.locator("canvas#coronal").click(position={"x": 60, "y": 80})
    expect(page.locator("#explore-at")).not_to_have_text(before)


def test_labels_stay_text(page):
    assert page.locator("td.at b").count() == 0
    expect(page.get_by_role("button", name="<b>bold</b>")).to_be_visible()


def test_it_has_no_serious_accessibility_finding(page):
    assert grave_findings(page) == []


def test_without_javascript_everything_else_is_there(browser, report_file):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.goto(report_file.as_uri())
    expect(page.locator("#explorer")).to_be_hidden()
    for heading in ("Overlays", "Volume change", "Landmarks", "Protocol"):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    expect(page.locator("td.at").first).to_be_visible()
    assert page.get_by_role("button").count() == 0
    context.close()


def test_it_is_one_file_below_five_megabytes_for_a_large_pair(browser, tmp_path, screenshots):
    """256^3 voxels."""
    from ProgressiveRegistrationLib.phantom.pair import breathing_thorax

    pair = breathing_thorax(3, size=(256, 256, 256), spacing=(1.4, 1.4, 1.3), landmarks=100)
    file = written_report(pair, tmp_path)
    print("report.html of a 256^3 pair (MB):", round(file.stat().st_size / 1e6, 2))
    assert file.stat().st_size < 5e6
    assert list(tmp_path.glob("*.html")) == [file], "one file"
    opened = browser.new_context(offline=True, viewport={"width": 1100, "height": 900}).new_page()
    opened.goto(file.as_uri())
    expect(opened.locator("canvas#coronal")).to_be_visible()
    opened.locator("#coronal-slice").press("PageDown")
    assert shown(opened, "coronal").max() > 150
    opened.locator("td.at").nth(4).get_by_role("button").click()
    opened.locator("#blend").fill("0.3")
    opened.evaluate("scrollTo(0, 0)")
    opened.screenshot(path=screenshots / "report-explore.jpg", type="jpeg", quality=82)
    opened.context.close()
