"""What the page's server takes at most with two scans of 512 x 512 x 300 voxels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed (extra test)")

from conftest import Server
from page_driver import LONG, Driver
from playwright.sync_api import expect

SIZE = (512, 512, 300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A breathing thorax on as many voxels as a scan has; its content is as coarse as it was made."""
    import SimpleITK as sitk
    from ProgressiveRegistrationLib.geometry import Grid
    from ProgressiveRegistrationLib.phantom.pair import breathing_thorax

    out = tmp_path_factory.mktemp("large")
    pair = breathing_thorax(3, size=(128, 128, 75), spacing=(2.7, 2.7, 4.4), tips=600, landmarks=12)
    for side in ("fixed", "moving"):
        image = getattr(pair, side)
        fine = Grid.from_image(image).with_spacing((2.7 / 4, 2.7 / 4, 4.4 / 4)).resample(image)
        assert fine.GetSize() == SIZE
        sitk.WriteImage(fine, str(out / f"{side}.nrrd"))
    return out


def most(process: int) -> float:
    """GiB that a process had resident at most."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_large_scans_take_less_than_two_gibibytes(browser, web, folder, record_property):
    server = Server("--data", folder)
    tab = Driver(browser, server.url, server=server)
    told = {"started": most(server.process.pid)}
    for side in ("fixed", "moving"):
        tab.page.locator(f"[data-browse={side}]").click()
        tab.page.locator(".entry", has_text=f"{side}.nrrd").click()
        tab.expect_input(side, f"{side}.nrrd")
    told["loaded"] = most(server.process.pid)
    tab.register()
    assert "Registered in" in tab.wait_registered()
    told["registered"] = most(server.process.pid)
    for mode in ("Checkerboard", "Difference", "Local volume change"):
        tab.choose("Compare", mode)
        tab.settle(4)
    told["compared"] = most(server.process.pid)
    tab.choose("Compare", "Expected error")
    expect(tab.page.locator("#trust")).to_contain_text("Expected error in the lungs", timeout=LONG)
    tab.page.locator("#report-tab").click()
    frame = tab.page.frame_locator(".report iframe")
    expect(frame.get_by_role("heading", name="Lung CT registration")).to_be_visible(timeout=LONG)
    told["reported"] = most(server.process.pid)
    tab.close()
    assert server.stop() == 0
    record_property("peak_gib", {what: round(gib, 2) for what, gib in told.items()})
    print("peak memory (GiB):", {what: round(gib, 2) for what, gib in told.items()})
    assert told["reported"] < 2
