"""What the page's server refuses: strangers, other sites' pages, paths that lead out, endless uploads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import REPOSITORY, Server
from ProgressiveRegistrationLib.errors import InputError, OutputError

pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra web)")

from ProgressiveRegistrationWeb.data_folder import DataFolder
from ProgressiveRegistrationWeb.reading import check_references, image_of, series_in
from ProgressiveRegistrationWeb.security import check_address, is_loopback
from ProgressiveRegistrationWeb.uploads import Uploads, safe_name

TOKEN = "a token for the tests"


def ask(url: str, **headers) -> tuple[int, str]:
    """(status, text) of a GET that follows no redirect."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments):
            return None

    request = urllib.request.Request(
        url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")


def finished(coroutine_function, *arguments):
    """The result of a coroutine, in a thread of its own: Playwright's loop runs in this one."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(lambda: asyncio.run(coroutine_function(*arguments))).result()


def websocket(url: str, **headers) -> int:
    """The status that a websocket's request gets; 101 when it is opened."""
    import aiohttp

    async def connect() -> int:
        async with aiohttp.ClientSession() as session:
            try:
                async with session.ws_connect(url + "ws", headers=headers):
                    return 101
            except aiohttp.WSServerHandshakeError as error:
                return error.status

    return finished(connect)


# ---------- addresses


@pytest.mark.parametrize(
    ("host", "stays"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True)]
)
def test_loopback_needs_no_token(host, stays):
    assert is_loopback(host) is stays
    check_address(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "no.such.host.invalid", ""])
def test_any_other_address_needs_one(host):
    with pytest.raises(InputError, match="--token"):
        check_address(host, None)
    check_address(host, TOKEN)


def test_a_token_that_is_soon_guessed_is_refused():
    with pytest.raises(InputError, match="at least 12"):
        check_address("0.0.0.0", "secret")


def command(*options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ProgressiveRegistrationLib.cli", "web", *options],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "ProgressiveRegistration")},
        timeout=120,
    )


def test_the_command_refuses_in_one_sentence(web, tmp_path):
    for options, words in (
        (("--host", "0.0.0.0"), "give a --token"),
        (("--data", str(tmp_path / "none")), "There is no folder"),
        (("--port", "99999"), "There is no port 99999"),
    ):
        run = command(*options)
        assert run.returncode == 3
        assert words in run.stderr
        assert "Traceback" not in run.stderr
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        run = command("--port", str(busy.getsockname()[1]))
    assert run.returncode == 3
    assert "give another --port" in run.stderr
    assert "Traceback" not in run.stderr


# ---------- requests


@pytest.fixture(scope="module")
def open_server(web, tmp_path_factory):
    """Without a token, on loopback."""
    started = Server("--max-upload", 1, "--output", tmp_path_factory.mktemp("output"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def closed_server(web):
    """With a token; the address would be any."""
    started = Server("--host", "0.0.0.0", environment={"PROGRESSIVE_REGISTRATION_TOKEN": TOKEN})
    started.url = started.url.replace("0.0.0.0", "127.0.0.1")
    assert TOKEN not in "".join(started.lines), "the token is not printed"
    yield started
    started.close()


def test_a_foreign_name_that_points_here_is_not_answered(open_server):
    assert ask(open_server.url + "index.html")[0] == 200
    assert ask(open_server.url + "index.html", Host="evil.example")[0] == 403
    assert websocket(open_server.url, Host="evil.example") == 403


def test_another_site_s_page_cannot_use_the_server(open_server):
    assert websocket(open_server.url) == 101
    assert websocket(open_server.url, Origin=open_server.url.rstrip("/")) == 101
    assert websocket(open_server.url, Origin="http://evil.example") == 403
    assert websocket(open_server.url, Origin="null") == 403
    assert ask(open_server.url + "download/transform.h5", Origin="http://evil.example")[0] == 403


def test_nothing_is_answered_without_the_token(closed_server):
    url = closed_server.url
    for path in (
        "",
        "index.html",
        "ws",
        "alive",
        "download/transform.h5",
        "report/1/report.html",
        "vue.global.js",
    ):
        status, text = ask(url + path)
        assert status == 401, path
        assert "asks for its token" in text
    assert websocket(url) == 401
    for wrong in ("", TOKEN[:-1], TOKEN + "x", "Bearer"):
        assert ask(url + "alive", Authorization=f"Bearer {wrong}")[0] == 401
        assert websocket(url, Authorization=f"Bearer {wrong}") == 401
        assert websocket(url, Cookie=f"progressive-registration={wrong}") == 401
    assert ask(url + "?token=wrong")[0] == 401


def test_the_token_opens_the_page_and_its_websocket(closed_server):
    from urllib.parse import quote

    url = closed_server.url
    assert ask(url + "alive", Authorization=f"Bearer {TOKEN}") == (200, "yes")
    assert websocket(url, Authorization=f"Bearer {TOKEN}") == 101
    request = urllib.request.Request(url + f"?token={quote(TOKEN)}")

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments):
            return None

    with pytest.raises(urllib.error.HTTPError) as redirect:
        urllib.request.build_opener(Stay).open(request)
    assert redirect.value.code == 303
    cookie = redirect.value.headers["Set-Cookie"]
    redirect.value.close()
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    pair = cookie.split(";")[0]
    assert ask(url + "alive", Cookie=pair)[0] == 200
    assert websocket(url, Cookie=pair) == 101


def test_a_user_types_the_token_once(browser, closed_server, screenshots):
    from page_driver import grave_findings

    context = browser.new_context()
    page = context.new_page()
    page.goto(closed_server.url)
    page.get_by_label("Token").fill("not the token")
    page.get_by_role("button", name="Open").click()
    page.get_by_text("That is not the token.").wait_for()
    assert grave_findings(page) == []
    page.screenshot(path=screenshots / "web-token.jpg", type="jpeg", quality=82)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    page.get_by_role("heading", name="Progressive Registration").wait_for(timeout=180_000)
    page.locator("#example").wait_for(timeout=180_000)
    assert TOKEN not in page.url
    context.close()


def test_answers_carry_the_headers_that_confine_the_page(open_server):
    with urllib.request.urlopen(open_server.url + "index.html") as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "object-src 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "download/../../etc/passwd",
        "progressive_registration/../app.py",
    ],
)
def test_no_address_leads_to_the_server_s_own_files(open_server, path):
    with socket.create_connection(("127.0.0.1", open_server.port), timeout=30) as raw:
        raw.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := raw.recv(65536):
            answer += chunk
    assert b" 404 " in answer.split(b"\r\n")[0] or b" 403 " in answer.split(b"\r\n")[0]
    assert b"root:" not in answer


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /alive", b"Authorization: Bearer \xff\xfe", (401, 200)),
        ("GET /alive", b"Cookie: progressive-registration=\xff", (401, 200)),
        ("GET /?token=%ff%ed%a0%80", b"X: y", (401, 302)),
        ("POST /token", b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 3", (401, 405)),
        ("GET /alive", b"Origin: http://[", (403, 403)),
        ("GET /alive", b"Origin: \xff", (403, 403)),
        ("GET /ws", b"X: y", (401, 400)),
    ],
)
def test_odd_requests_are_refused_and_break_nothing(
    closed_server, open_server, request_line, headers, status
):
    """With a token and without."""
    for server, expected in zip((closed_server, open_server), status):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
            head = f"{request_line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n".encode()
            raw.sendall(head + headers + b"\r\n\r\n" + (b"abc" if b"Length" in headers else b""))
            assert int(raw.recv(100).split()[1]) == expected
    assert websocket(open_server.url) == 101


@pytest.mark.parametrize("host", [b"[", b"\xff", b"127.0.0.1.evil.example", b""])
def test_a_host_that_is_none_is_refused(open_server, host):
    with socket.create_connection(("127.0.0.1", open_server.port), timeout=30) as raw:
        raw.sendall(b"GET /alive HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        assert int(raw.recv(100).split()[1]) in (400, 403)


def post(url: str, body: bytes = b"") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data=body, method="POST"), timeout=60
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_uploads_are_bounded_and_leave_nothing(open_server):
    status, drop = post(open_server.url + "upload/begin")
    assert status == 200
    status, text = post(open_server.url + f"upload/file?drop={drop}&name=big.nrrd", bytes(1_200_000))
    assert status == 413
    assert "limited to 1 MB together" in text
    assert post(open_server.url + f"upload/file?drop={drop}&name=a.nrrd", b"x")[0] == 400, (
        "the drop is forgotten"
    )
    assert post(open_server.url + f"upload/file?drop={'0' * 32}&name=a.nrrd", b"x")[0] == 400
    assert post(open_server.url + "upload/file?drop=../..&name=a.nrrd", b"x")[0] == 400
    assert post(open_server.url + f"upload/done?drop={drop}&role=__class__")[0] == 400


# ---------- files


def test_a_path_never_leads_out_of_the_data_folder(tmp_path):
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)
    (data / "inner" / "a.nrrd").write_bytes(b"x")
    (tmp_path / "secret.nrrd").write_bytes(b"x")
    (data / "out.nrrd").symlink_to(tmp_path / "secret.nrrd")
    (data / "up").symlink_to(tmp_path)
    (data / "in.nrrd").symlink_to(data / "inner" / "a.nrrd")
    (data / "nowhere.nrrd").symlink_to(tmp_path / "none")
    folder = DataFolder(data)
    for path in (
        "../secret.nrrd",
        "inner/../../secret.nrrd",
        str(tmp_path / "secret.nrrd"),
        "out.nrrd",
        "up/secret.nrrd",
    ):
        with pytest.raises(InputError):
            folder.resolve(path)
    for path in ("a\0b", "..\\secret.nrrd", "none.nrrd", "nowhere.nrrd"):
        with pytest.raises(InputError):
            folder.resolve(path)
    assert folder.resolve("in.nrrd") == data / "inner" / "a.nrrd"
    assert [entry.name for entry in folder.list("")] == ["inner", "in.nrrd"]


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mhd", "ObjectType = Image\nNDims = 3\nElementDataFile = ../secret.raw\n"),
        ("a.mha", "NDims = 3\nElementDataFile = {absolute}\n"),
        ("a.mhd", "NDims = 3\nElementDataFile = LIST\nok.raw\n../secret.raw\n"),
        ("a.mhd", "NDims = 3\nElementDataFile = ../secret%d.raw 1 2 1\n"),
        ("a.nhdr", "NRRD0004\ndimension: 3\ndata file: ../secret.raw\n"),
        ("a.nrrd", "NRRD0004\ndimension: 3\ndatafile: {absolute}\n\n"),
        ("a.nhdr", "NRRD0004\ndimension: 3\ndata file: LIST\nok.raw\n{absolute}\n"),
    ],
)
def test_a_header_cannot_fetch_its_voxels_from_outside(tmp_path, name, header):
    data = tmp_path / "data"
    data.mkdir()
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(64))
    (data / name).write_text(header.format(absolute=secret))
    with pytest.raises(InputError, match="outside its folder"):
        check_references(data / name, data.resolve())


def test_a_header_beside_its_voxels_is_read(tmp_path):
    image = sitk.GetImageFromArray(np.arange(1000, dtype=np.int16).reshape(10, 10, 10))
    for name in ("a.mhd", "a.nhdr", "a.mha", "a.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
        read = image_of(tmp_path / name, tmp_path.resolve())
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(image))


def test_a_slice_that_is_a_link_to_elsewhere_is_refused(tmp_path):
    from small_pair import write_dicom

    image = sitk.GetImageFromArray(np.arange(12 * 16 * 16, dtype=np.int16).reshape(12, 16, 16))
    write_dicom(image, tmp_path / "outside", "1.2.3.4.5.6.7")
    inside = tmp_path / "data" / "series"
    inside.mkdir(parents=True)
    for file in (tmp_path / "outside").iterdir():
        (inside / file.name).symlink_to(file)
    root = (tmp_path / "data").resolve()
    assert series_in(inside, "series", root) == []
    with pytest.raises(InputError, match="outside its folder"):
        image_of(inside, root)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\a.nrrd", "a.nrrd"),
        (".hidden.nrrd", "hidden.nrrd"),
        ("a\nb.nrrd", "ab.nrrd"),
    ],
)
def test_a_dropped_file_s_name_is_made_harmless(given, kept):
    assert safe_name(given) == kept


@pytest.mark.parametrize("name", ["", "..", "/", "\n"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InputError, match="no name"):
        safe_name(name)


def test_an_upload_that_breaks_off_leaves_no_file(tmp_path):
    uploads = Uploads(tmp_path / "uploads", 1000)
    drop = uploads.begin()

    async def breaking():
        yield b"some"
        raise ConnectionResetError

    with pytest.raises(OutputError, match="cannot be kept"):
        finished(uploads.receive, drop, "a.nrrd", breaking())
    assert list((tmp_path / "uploads" / drop).iterdir()) == []
    assert uploads.used() == 0


def test_uploads_that_come_at_once_are_bounded_together(tmp_path):
    uploads = Uploads(tmp_path / "uploads", 1000)

    async def slow(chunks: int):
        for _ in range(chunks):
            await asyncio.sleep(0)
            yield bytes(100)

    async def three() -> list:
        drops = [uploads.begin() for _ in range(3)]
        files = (uploads.receive(drop, "a.nrrd", slow(6)) for drop in drops)
        return await asyncio.gather(*files, return_exceptions=True)

    refused = [result for result in finished(three) if not isinstance(result, Path)]
    assert refused
    assert all(isinstance(result, InputError) and "too large" in str(result) for result in refused)
    files = [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
    assert uploads.used() == sum(path.stat().st_size for path in files) <= 1000
    assert len(files) == 3 - len(refused)


def test_uploads_of_a_server_that_was_killed_are_forgotten(tmp_path):
    drop = Uploads(tmp_path / "uploads", 1000).begin()
    (tmp_path / "uploads" / drop / "a.nrrd").write_bytes(b"x")
    with pytest.raises(InputError, match="not known"):
        Uploads(tmp_path / "uploads", 1000).place(drop)
    assert not (tmp_path / "uploads").exists()


def test_nothing_is_written_outside_the_output_folder(web, browser, tmp_path):
    """A whole session leaves the data, the user's own folder and that of the server as they were."""
    from page_driver import LONG, Driver
    from playwright.sync_api import expect
    from ProgressiveRegistrationLib.phantom.pair import breathing_thorax

    data, output, home = tmp_path / "data", tmp_path / "output", tmp_path / "home"
    for folder in (data, home, tmp_path / "tmp"):
        folder.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((9, 9, 9), np.int16)), str(data / "flat.nrrd"))
    pair = breathing_thorax(3, size=(80, 80, 64), spacing=(4.3, 4.3, 5.0), tips=300, landmarks=12)
    for side in ("fixed", "moving"):
        sitk.WriteImage(getattr(pair, side), str(data / f"{side}.nrrd"))
    before = {path: path.stat().st_mtime_ns for path in (data, *data.iterdir())}
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    environment = {"HOME": str(home), "TMPDIR": str(tmp_path / "tmp")}
    server = Server("--data", data, "--output", output, environment=environment)
    driver = Driver(browser, server.url)
    driver.page.locator("[data-browse=fixed]").click()
    driver.page.locator(".entry", has_text="flat.nrrd").click()
    assert "flat.nrrd has the value 0 everywhere" in driver.message()
    driver.page.locator("[data-browse=fixed]").click()
    driver.page.locator(".entry", has_text="fixed.nrrd").click()
    driver.expect_input("fixed", "fixed.nrrd")
    with driver.page.expect_file_chooser() as chooser:
        driver.page.locator("[data-upload=moving]").click()
    chooser.value.set_files(str(data / "moving.nrrd"))
    driver.expect_input("moving", "moving.nrrd")
    driver.choose("Preset", "Fast")
    driver.register()
    assert "Registered in" in driver.wait_registered()
    for text in ("Transform", "Registered image", "Report"):
        with driver.page.expect_download(timeout=LONG) as download:
            driver.page.get_by_role("link", name=text, exact=True).click()
        assert download.value.failure() is None
    driver.page.locator("#report-tab").click()
    heading = driver.page.frame_locator(".report iframe").get_by_role("heading", name="Lung CT registration")
    expect(heading).to_be_visible(timeout=LONG)
    driver.close()
    server.close()
    assert before == {path: path.stat().st_mtime_ns for path in (data, *data.iterdir())}
    written = {path.name for path in output.iterdir()}
    assert written == {"transform.h5", "warped.nrrd", "report.html", "report.json"}
    left = [path for folder in (home, tmp_path / "tmp") for path in folder.rglob("*") if path.is_file()]
    assert left == []
    assert {path.name for path in tmp_path.iterdir()} == {"data", "output", "home", "tmp"}
    after = subprocess.run(
        ["git", "status", "--porcelain"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    assert after == status


def test_the_server_stays_when_no_tab_is_open(web, tmp_path):
    """trame's servers end after 300 s without a browser, and what was not downloaded with them. Here such
    waits are a hundred times shorter."""
    (tmp_path / "sitecustomize.py").write_text(
        "import wslink\n"
        "wait = wslink.schedule_coroutine\n"
        "wslink.schedule_coroutine = lambda delay, *a, **k: wait(delay / 100, *a, **k)\n"
    )
    paths = [str(tmp_path), str(REPOSITORY / "ProgressiveRegistration"), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with contextlib.closing(Server(environment=environment)) as server:
        assert websocket(server.url) == 101, "a tab that is closed at once"
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(8)
        assert server.ended() is None, server.ended()
        assert ask(server.url + "alive") == (200, "yes")


def test_a_server_that_is_told_to_stop_says_by_what(web):
    server = Server()
    assert server.stop(signal.SIGINT) == 0
    assert "SIGINT was sent to the server" in server.lines[-1]
