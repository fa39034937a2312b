"""The page in a real browser: a phantom is loaded, registered, looked at and measured, as a user does it."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("playwright", reason="playwright is not installed (extra test)")

from conftest import Server
from page_driver import LONG, Driver, array, grave_findings
from playwright.sync_api import expect

EVIL = "<img src=x onerror=alert(1)>"
SERIES = "Chest <b>exhale</b>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data folder: a small pair with landmarks, a DICOM series, a broken file, names that are markup."""
    import SimpleITK as sitk
    from ProgressiveRegistrationLib.landmarks import Landmarks, write_landmarks
    from ProgressiveRegistrationLib.phantom.pair import breathing_thorax
    from small_pair import write_dicom

    out = tmp_path_factory.mktemp("data")
    pair = breathing_thorax(3, size=(80, 80, 64), spacing=(4.3, 4.3, 5.0), tips=300, landmarks=12)
    sitk.WriteImage(pair.fixed, str(out / "exhale.nrrd"))
    sitk.WriteImage(pair.moving, str(out / "inhale.nii.gz"))
    sitk.WriteImage(pair.moving, str(out / f"{EVIL.replace('/', '')}.nrrd"))
    sitk.WriteImage(pair.fixed_lungs, str(out / "lungs.nrrd"))
    labels = [EVIL, "{{ 7*7 }}", *pair.fixed_landmarks.labels[2:]]
    write_landmarks(Landmarks(pair.fixed_landmarks.points, labels), out / "exhale.mrk.json")
    write_landmarks(Landmarks(pair.moving_landmarks.points, labels), out / "inhale.csv")
    (out / "broken.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
    (out / "series").mkdir()
    write_dicom(pair.moving, out / "series" / "one", "1.2.826.0.1.3680043.2.1.7")
    write_dicom(pair.fixed, out / "series" / "two", "1.2.826.0.1.3680043.2.1.8", SERIES)
    write_dicom(pair.moving, out / "series" / "two", "1.2.826.0.1.3680043.2.1.9", "Chest, inhale")
    return out


@pytest.fixture(scope="module")
def server(web, folder):
    started = Server("--data", folder)
    yield started
    started.close()


@pytest.fixture(scope="module")
def tab(browser, server):
    """One tab for all tests of this file, in their order: a session as a user has it."""
    driver = Driver(browser, server.url, server=server)
    yield driver
    driver.close()
    assert driver.problems == []


def test_nothing_can_be_registered_before_images_are_chosen(tab):
    expect(tab.page.locator("#register")).to_be_disabled()
    expect(tab.page.get_by_text("Choose the fixed and the moving image.")).to_be_visible()


def test_the_breathing_thorax_is_loaded_and_seen(tab, screenshots):
    tab.load_example()
    tab.settle(2)
    for view in ("Axial", "Coronal", "Sagittal"):
        assert array(tab.picture(view)).max() > 120, f"{view} is black"
    assert 5 < tab.tre("Before") < 15
    tab.page.screenshot(path=screenshots / "web-loaded.jpg", type="jpeg", quality=82)


def test_cancel_is_answered_at_once_and_leaves_the_scene_as_it_was(tab, screenshots, record_property):
    """At once: before the computation ends, which a second registration then waits for. The time is
    recorded, not asserted."""
    tab.settle(1)
    before = {view: array(tab.picture(view)) for view in ("Axial", "Coronal", "Sagittal", "3D")}
    rows = tab.page.locator("#landmarks tbody").inner_text()
    waits = []
    for stage in ("", "efin"):  # as soon as it runs, and in the middle of the refinement
        tab.choose("Preset", "Accurate")
        tab.register()
        expect(tab.page.locator("#stage")).not_to_have_text("Starting", timeout=LONG)
        expect(tab.page.locator("#stage")).to_contain_text(stage, timeout=LONG)
        if stage:
            expect(tab.page.locator("#stage")).to_contain_text(re.compile("about .* left"), timeout=LONG)
            assert 0 < int(tab.page.locator("#progress").get_attribute("aria-valuenow")) < 100
            tab.page.screenshot(path=screenshots / "web-busy.jpg", type="jpeg", quality=82)
        began = time.perf_counter()
        tab.page.locator("#register").click()
        expect(tab.page.locator("#register")).to_have_text("Register")
        waits.append(round(time.perf_counter() - began, 3))
        expect(tab.page.locator("#message")).to_contain_text("Cancelled; the scene is as it was.")
    record_property("cancel_s", waits)
    print("cancelled after (s):", waits)
    expect(tab.page.locator("#tre tbody tr")).to_have_count(1)
    expect(tab.page.locator("#undo")).to_be_hidden()
    assert tab.page.locator("#landmarks tbody").inner_text() == rows
    for view, picture in before.items():
        tab.wait_until(
            lambda view=view, picture=picture: np.abs(array(tab.picture(view)) - picture).mean() < 0.5,
            f"the {view} view is as it was",
        )


def test_reloading_in_the_middle_finds_the_registration_still_running(tab):
    tab.choose("Preset", "Fast")
    tab.register()
    tab.page.reload()
    expect(tab.page.locator("#input-fixed")).to_contain_text("Thorax exhale", timeout=LONG)
    assert "Registered in" in tab.wait_registered()


def test_the_phantom_registers_below_two_millimetres(tab, screenshots):
    assert tab.tre("After") < 2 < tab.tre("Before")
    assert "Folding inside the lungs: 0.000 %" in tab.page.locator("#folding").inner_text()
    tab.settle(2)
    tab.page.screenshot(path=screenshots / "web-registered.jpg", type="jpeg", quality=82)


def test_landmarks_are_sorted_by_error_and_drawn_as_a_histogram(tab):
    after = [float(text) for text in tab.page.locator("#landmarks tbody td:last-child").all_inner_texts()]
    assert len(after) == 40
    assert after == sorted(after, reverse=True)
    histogram = tab.page.get_by_role("img", name="Histogram of the landmark errors")
    expect(histogram).to_be_visible()
    assert histogram.evaluate("image => image.naturalWidth") > 100, "the browser could draw it"


def test_the_3d_view_has_the_lungs_and_coloured_errors(tab, screenshots):
    tab.page.get_by_role("button", name="Enlarge the 3D view").click()
    expect(tab.page.locator(".view-axial")).to_be_hidden()
    expect(tab.page.locator(".view-3d .scale")).to_contain_text("5 mm")
    tab.settle(2)
    tab.page.screenshot(path=screenshots / "web-3d.jpg", type="jpeg", quality=82)
    picture = array(tab.picture("3D"))[:, :-60]  # without the colour bar
    brightness = picture.sum(2)
    background = np.median(brightness[:, :40], axis=1, keepdims=True)
    seen = np.abs(brightness - background) > 60
    assert 0.15 < seen.mean() < 0.8, "the lungs fill the view, neither less nor more"
    assert np.abs(np.argwhere(seen).mean(0) / seen.shape - 0.5).max() < 0.15, "and lie in its middle"
    coloured = (picture.max(2) - picture.min(2)) > 90
    assert coloured.sum() > 200, "the errors"
    tab.page.get_by_role("button", name="Show all views").click()
    expect(tab.page.locator(".view-axial")).to_be_visible()


@pytest.mark.parametrize("window", ["Mediastinum", "Bone"])
def test_window_presets_change_the_grey_values(tab, window):
    tab.settle(2)
    before = array(tab.picture("Axial"))
    tab.choose("Window", window)
    tab.wait_until(lambda: np.abs(array(tab.picture("Axial")) - before).mean() > 5, window)
    tab.choose("Window", "Lung")
    tab.wait_until(lambda: np.abs(array(tab.picture("Axial")) - before).mean() < 1, "as it was")


def test_a_landmark_row_takes_all_views_to_it(tab):
    before = [tab.position(view) for view in ("Axial", "Coronal", "Sagittal")]
    row = tab.page.locator("#landmarks tbody tr").nth(3)
    row.get_by_role("button").click()
    expect(row).to_have_class(re.compile("chosen"))
    expect(tab.page.locator(".view-axial .position")).not_to_have_text(f"S {before[0]:.1f} mm")
    assert [tab.position(view) for view in ("Axial", "Coronal", "Sagittal")] != before


def test_a_landmark_moved_to_the_crosshair_changes_its_error_and_the_mean(tab):
    label = tab.page.locator("#landmarks tr.chosen button").inner_text()
    was, mean = tab.landmark(label), tab.tre("After")
    tab.click_in("axial", 0.62, 0.55)  # the crosshair goes there
    tab.page.locator("#move-fixed").click()
    expect(tab.page.locator("#tre tbody tr", has_text="After").locator("td").first).not_to_have_text(
        f"{mean:.2f}"
    )
    now = tab.landmark(label)
    assert now[0] != was[0]
    assert now[1] > was[1] + 5
    assert tab.tre("After") == pytest.approx(mean + (now[1] - was[1]) / 40, abs=0.02)


def test_a_click_in_one_view_moves_the_others(tab):
    before = tab.position("Axial")
    tab.click_in("coronal", 0.3, 0.2)
    assert tab.position("Axial") > before, "a click above the crosshair goes to the head"
    assert tab.position("Sagittal") > 0, "the patient's right is on the left"
    before = tab.position("Coronal")
    tab.page.mouse.wheel(0, 100)  # the mouse is over the coronal view
    tab.wait_until(lambda: tab.position("Coronal") != before, "the wheel goes through the slices")


def test_landmarks_are_added_by_clicks_and_deleted(tab):
    for tool, at in (("fixed", 0.35), ("moving", 0.36)):
        tab.use_tool(tool)
        tab.click_in("axial", at, at + 0.15)
    expect(tab.page.locator("#landmarks tbody tr")).to_have_count(41)
    expect(tab.page.get_by_text("41 landmarks matched by label.")).to_be_visible()
    tab.use_tool("link")
    tab.page.locator("#delete-landmark").click()
    expect(tab.page.locator("#landmarks tbody tr")).to_have_count(40)


def test_landmarks_are_dragged_in_a_view(tab):
    """The point under the crosshair, after a press on its row, follows the mouse and its error with it."""
    row = tab.page.locator("#landmarks tbody tr").first
    row.get_by_role("button").click()
    label = row.get_by_role("button").inner_text()
    tab.use_tool("move")
    was = tab.landmark(label)
    at = tab.crosshair("axial")
    for _attempt in range(3):  # a press that comes before the view saw the mouse takes nothing
        tab.drag("axial", at, (at[0] + 30, at[1] + 20))
        tab.settle(1)
        if tab.landmark(label)[0] != was[0]:
            break
    tab.wait_until(lambda: tab.landmark(label)[0] != was[0], "the error follows")
    moved = tab.landmark(label)
    tab.drag("axial", (at[0] + 30, at[1] + 20), at)
    tab.wait_until(lambda: abs(tab.landmark(label)[0] - was[0]) < 0.75 * abs(moved[0] - was[0]), "and back")
    tab.use_tool("link")


@pytest.mark.parametrize("mode", ["Checkerboard", "Flicker", "Difference", "Local volume change"])
def test_other_ways_to_compare_show_something_else(tab, screenshots, mode):
    tab.settle()
    overlay = array(tab.picture("Coronal"))
    tab.choose("Compare", mode)
    coloured = mode in ("Difference", "Local volume change")
    tab.wait_until(lambda: np.abs(array(tab.picture("Coronal")) - overlay).mean() > 1, mode)
    if coloured:  # not only the fixed image, as long as it is computed; the crosshair is 1 % of the picture
        tab.wait_until(lambda: (np.ptp(array(tab.picture("Coronal")), axis=2) > 15).mean() > 0.1, mode)
    tab.settle(1)
    tab.page.screenshot(path=screenshots / f"web-{mode.split()[0].lower()}.jpg", type="jpeg", quality=82)
    expect(tab.page.locator(".view-coronal .scale")).to_have_count(int(coloured))
    tab.choose("Compare", "Fixed orange")
    tab.wait_until(lambda: np.abs(array(tab.picture("Coronal")) - overlay).mean() < 1, "the overlay again")


def test_the_expected_error_is_estimated_when_it_is_asked_for(tab, screenshots):
    tab.settle()
    overlay = array(tab.picture("Coronal"))
    tab.choose("Compare", "Expected error")
    expect(tab.page.locator("#trust")).to_contain_text("Expected error in the lungs: mean", timeout=LONG)
    expect(tab.page.locator(".view-coronal .scale")).to_contain_text("6 mm")
    tab.wait_until(lambda: np.abs(array(tab.picture("Coronal")) - overlay).mean() > 1, "the overlay")
    before = tab.page.locator(".view-axial .position").inner_text()
    tab.page.locator("#least-sure").click()
    expect(tab.page.locator(".view-axial .position")).not_to_have_text(before)
    tab.settle(1)
    tab.page.screenshot(path=screenshots / "web-expected.jpg", type="jpeg", quality=82)
    tab.choose("Compare", "Checkerboard")
    tab.choose("Compare", "Expected error")
    assert not tab.is_busy(), "it is known"
    tab.choose("Compare", "Fixed orange")


def test_opacity_shows_one_volume_or_the_other(tab):
    def warmth() -> float:
        red, _green, blue = array(tab.picture("Coronal")).reshape(-1, 3).mean(0)
        return red - blue

    tab.page.locator("#opacity").fill("0")
    tab.wait_until(lambda: warmth() > 8, "the fixed image is orange")
    tab.page.locator("#opacity").fill("1")
    tab.wait_until(lambda: warmth() < -8, "the moving image is blue")
    tab.page.locator("#opacity").fill("0.5")


def test_the_report_is_embedded_and_cannot_reach_the_page(tab, screenshots):
    tab.page.locator("#report-tab").click()
    frame = tab.page.frame_locator(".report iframe")
    expect(frame.get_by_role("heading", name="Lung CT registration")).to_be_visible(timeout=LONG)
    assert "allow-same-origin" not in tab.page.locator(".report iframe").get_attribute("sandbox")
    tab.page.screenshot(path=screenshots / "web-report.jpg", type="jpeg", quality=82)
    tab.page.locator("#views-tab").click()


def test_results_are_downloaded_and_are_what_the_page_shows(tab, tmp_path):
    import SimpleITK as sitk
    from ProgressiveRegistrationLib.landmarks import read_landmarks
    from ProgressiveRegistrationLib.pairing import match_landmarks
    from ProgressiveRegistrationLib.transforms import map_points, read_transform

    paths = {}
    texts = (
        "Transform",
        "Registered image",
        "Landmark errors",
        "Fixed landmarks",
        "Moving landmarks",
        "Report",
    )
    for text in texts:
        with tab.page.expect_download(timeout=LONG) as download:
            tab.page.get_by_role("link", name=text, exact=True).click()
        paths[text] = tmp_path / download.value.suggested_filename
        download.value.save_as(paths[text])
    fixed, moving, _how = match_landmarks(
        *(read_landmarks(paths[f"{side} landmarks"]) for side in ("Fixed", "Moving"))
    )
    mapped = map_points(read_transform(paths["Transform"]), fixed.points)
    mean = np.linalg.norm(mapped - moving.points, axis=1).mean()
    assert mean == pytest.approx(tab.tre("After"), abs=0.01)
    assert sitk.ReadImage(str(paths["Registered image"])).GetSize() == (192, 192, 128)
    assert len(paths["Landmark errors"].read_text().splitlines()) == 41
    assert paths["Transform"].name == "transform.h5", "as the command line names it"
    assert "Lung CT registration" in paths["Report"].read_text(encoding="utf-8")


def test_a_second_tab_shows_the_same_session_and_says_so(tab, browser, server):
    other = Driver(browser, server.url, 1024, 768)
    expect(other.page.get_by_text("Open in 2 tabs, which show one session")).to_be_visible()
    expect(other.page.locator("#tre tbody tr")).to_have_count(2, timeout=LONG)
    assert other.tre("After") == tab.tre("After")
    other.page.locator("#undo").click()
    expect(tab.page.locator("#tre tbody tr")).to_have_count(1, timeout=LONG)
    assert other.problems == []
    other.close()
    expect(tab.page.get_by_text("One user a server")).to_be_visible(timeout=LONG)
    picture = tab.page.locator(".view-axial .picture img").first
    shape = "image => image.naturalWidth / image.naturalHeight - image.clientWidth / image.clientHeight"
    tab.wait_until(lambda: abs(picture.evaluate(shape)) < 0.02, "the views have this tab's size again")


def pick(tab, role: str, *names: str) -> None:
    tab.page.locator(f"[data-browse={role}]").click()
    tab.page.locator(".crumb").first.click()  # from the data folder on
    expect(tab.page.locator(".crumb")).to_have_count(1)
    for name in names[:-1]:
        tab.page.locator(".entry", has_text=name).first.click()
        expect(tab.page.locator(".crumb", has_text=name)).to_be_visible()
    tab.page.locator(".entry", has_text=names[-1]).first.click()


def test_a_bad_file_is_told_in_one_sentence_and_changes_nothing(tab, screenshots):
    pick(tab, "fixed", "broken.nrrd")
    tab.expect_message("broken.nrrd cannot be read as an image")
    tab.expect_input("fixed", "Thorax exhale")
    tab.page.screenshot(path=screenshots / "web-bad.jpg", type="jpeg", quality=82)


def test_files_of_the_data_folder_are_chosen_and_registered_with_masks(tab, screenshots):
    pick(tab, "fixed", "exhale.nrrd")
    tab.expect_input("fixed", "exhale.nrrd")
    pick(tab, "moving", "inhale.nii.gz")
    tab.expect_input("moving", "inhale.nii.gz")
    pick(tab, "fixed_landmarks", "exhale.mrk.json")
    tab.expect_input("fixed_landmarks", "exhale.mrk.json")
    pick(tab, "moving_landmarks", "inhale.csv")
    expect(tab.page.locator("#landmarks tbody tr")).to_have_count(12, timeout=LONG)
    tab.page.get_by_text("Options", exact=True).click()
    tab.page.get_by_label("Lung masks from files").check()
    tab.page.screenshot(path=screenshots / "web-options.jpg", type="jpeg", quality=82)
    pick(tab, "fixed_mask", "lungs.nrrd")
    tab.expect_input("fixed_mask", "lungs.nrrd")
    tab.choose("Preset", "Fast")
    tab.register()
    assert "Registered in" in tab.wait_registered()
    assert tab.tre("After") < tab.tre("Before")


def test_a_dicom_series_is_chosen_by_name(tab, screenshots):
    pick(tab, "fixed", "series", "two")
    expect(tab.page.locator(".entry", has_text="64 slices")).to_have_count(2, timeout=LONG)
    tab.page.screenshot(path=screenshots / "web-choose.jpg", type="jpeg", quality=82)
    tab.page.locator(".entry", has_text=SERIES).click()
    tab.expect_input("fixed", SERIES)
    expect(tab.page.locator("[data-role=fixed] .detail")).to_contain_text("80 × 80 × 64")


def test_names_and_labels_are_shown_as_text_never_run(tab, screenshots):
    expect(tab.page.get_by_role("button", name="{{ 7*7 }}")).to_be_visible()
    expect(tab.page.get_by_role("button", name=EVIL, exact=True)).to_be_visible()
    pick(tab, "moving", "onerror")
    tab.expect_input("moving", "onerror")
    assert tab.page.locator("img[src=x]").count() == 0
    tab.register()
    assert "Registered in" in tab.wait_registered()
    tab.page.locator("#report-tab").click()
    frame = tab.page.frame_locator(".report iframe")
    expect(frame.get_by_text(EVIL).first).to_be_visible(timeout=LONG)
    assert frame.locator("img[src=x]").count() == 0
    tab.page.locator("#views-tab").click()
    assert tab.problems == []


def test_a_file_sent_from_the_browser_is_read(tab, folder):
    with tab.page.expect_file_chooser() as chooser:
        tab.page.locator("[data-upload=moving]").click()
    chooser.value.set_files(str(folder / "inhale.nii.gz"))
    tab.expect_input("moving", "inhale.nii.gz")


def test_several_files_dropped_at_once_are_one_series(tab, folder):
    tab.drop("moving", sorted((folder / "series" / "one").iterdir()))
    tab.expect_input("moving", "64 files")
    expect(tab.page.locator("[data-role=moving] .detail")).to_contain_text("80 × 80 × 64")


def test_a_header_and_its_voxels_dropped_together_are_read(tab, folder, tmp_path):
    import SimpleITK as sitk

    sitk.WriteImage(sitk.ReadImage(str(folder / "inhale.nii.gz")), str(tmp_path / "pair.mhd"))
    tab.drop("moving", [tmp_path / "pair.raw", tmp_path / "pair.mhd"])
    tab.expect_input("moving", "pair.mhd")


def test_two_drops_in_a_row_are_both_read(tab, folder):
    tab.drop("fixed", [folder / "exhale.nrrd"])
    tab.drop("moving", [folder / "inhale.nii.gz"])
    tab.expect_input("fixed", "exhale.nrrd")
    tab.expect_input("moving", "inhale.nii.gz")


def test_what_is_dropped_while_registering_is_refused_with_the_way_out(tab, folder):
    tab.choose("Preset", "Accurate")
    tab.register()
    tab.drop("moving", [folder / "exhale.nrrd"])
    tab.expect_message("Cancel what is running, or wait for it, before you change its images.")
    assert tab.is_busy()
    tab.page.locator("#register").click()
    tab.expect_message("Cancelled; the scene is as it was.")
    tab.expect_input("moving", "inhale.nii.gz")
    tab.choose("Preset", "Fast")


def test_files_that_do_not_belong_together_are_told(tab, folder):
    tab.drop("moving", [folder / "exhale.nrrd", folder / "inhale.nii.gz"])
    tab.expect_message("These 2 files are not one image")
    tab.expect_input("moving", "inhale.nii.gz")


def test_a_bad_file_sent_from_the_browser_is_told(tab, folder):
    with tab.page.expect_file_chooser() as chooser:
        tab.page.locator("[data-upload=fixed]").click()
    chooser.value.set_files(str(folder / "broken.nrrd"))
    tab.expect_message("broken.nrrd cannot be read as an image")


def test_the_page_has_no_serious_accessibility_finding(tab):
    for where in ("#views-tab", "#report-tab"):
        tab.page.locator(where).click()
        tab.settle()
        assert grave_findings(tab.page) == []
    tab.page.locator("#views-tab").click()
    tab.page.locator("[data-browse=fixed]").click()
    expect(tab.page.locator(".entry").first).to_be_visible()
    tab.settle()
    assert grave_findings(tab.page) == []
    tab.page.get_by_role("button", name="Close", exact=True).click()
    expect(tab.page.locator(".entry").first).to_be_hidden()


@pytest.mark.parametrize(("width", "height"), [(1024, 768), (768, 1024)])
def test_the_page_fits_a_small_screen_and_a_tablet(browser, server, screenshots, width, height):
    driver = Driver(browser, server.url, width, height, has_touch=True)
    driver.settle(2)
    overflow = driver.page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow <= 0
    if width < 900:  # the controls would lie over the views there
        expect(driver.page.locator("#register")).not_to_be_in_viewport()
    for view in ("axial", "coronal", "sagittal", "3d"):
        box = driver.page.locator(f".view-{view} .picture").bounding_box()
        assert box["width"] > 150, view
        assert box["height"] > 120, view
        assert box["x"] + box["width"] <= width + 1, view
    driver.page.screenshot(path=screenshots / f"web-{width}.jpg", type="jpeg", quality=82)
    if width < 900:
        driver.page.get_by_role("button", name="Show or hide the controls").tap()
        expect(driver.page.locator("#register")).to_be_in_viewport()
        driver.settle()
        driver.page.screenshot(path=screenshots / f"web-{width}-controls.jpg", type="jpeg", quality=82)
        driver.page.touchscreen.tap(width - 40, height / 2)  # beside them
        expect(driver.page.locator("#register")).not_to_be_in_viewport()
        expect(driver.page.locator(".v-navigation-drawer__scrim")).to_have_count(0)
    box = driver.page.locator(".view-coronal .picture").bounding_box()
    for down in (0.3, 0.7):  # a tap links the views
        was = driver.position("Axial")
        driver.page.touchscreen.tap(box["x"] + (1 - down) * box["width"], box["y"] + down * box["height"])
        expect(driver.page.locator(".view-axial .position")).not_to_have_text(f"S {was:.1f} mm")
    assert driver.position("Axial") < was
    assert driver.problems == []
    driver.close()


def test_a_page_whose_server_was_killed_says_so_and_comes_back_with_it(browser, web, screenshots):
    first = Server()
    driver = Driver(browser, first.url)
    first.stop(signal.SIGKILL)
    expect(driver.page.get_by_role("heading", name="Connection lost")).to_be_visible(timeout=LONG)
    assert grave_findings(driver.page) == []
    driver.page.screenshot(path=screenshots / "web-lost.jpg", type="jpeg", quality=82)
    second = Server(port=first.port)
    try:
        expect(driver.page.locator("#example")).to_be_enabled(timeout=LONG)
        expect(driver.page.locator("#input-fixed")).to_have_text("No image")
    finally:
        driver.close()
        assert second.stop() == 0


def test_clicks_are_answered_while_registering(tab, record_property):
    """The longest of twenty answers is recorded, not asserted: it is a time."""
    tab.choose("Preset", "Balanced")
    tab.register()
    waits = []
    for value in range(20):
        waits.append(tab.answer("Axial", 2 if value % 10 < 5 else -2))
    record_property("slowest_answer_s", round(max(waits), 3))
    print("answers while registering (s):", [round(w, 3) for w in waits])
    assert tab.is_busy(), "all of them while registering"
    tab.page.locator("#register").click()
    tab.expect_message("Cancelled")
