"""MkDocs hooks: pages whose home is another folder, and links that leave the documentation."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
# Page of the site -> its home in the repository.
ELSEWHERE = {
    "start/slicer.md": "ProgressiveRegistration/README.md",
    "start/training.md": "Training/README.md",
    "studies/phantom.md": "Testing/benchmark/PHANTOM.md",
    "studies/refinement.md": "Testing/benchmark/REFINEMENT.md",
    "studies/training.md": "Training/STUDY.md",
    "studies/evaluation.md": "Training/EVALUATION.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
PAGES = {home: page for page, home in ELSEWHERE.items()}
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
PICTURES = (".png", ".svg", ".jpg", ".webp")


def home_of(page: str) -> PurePosixPath:
    """The file in the repository that a page of the site is made from."""
    return PurePosixPath(ELSEWHERE.get(page, f"docs/{page}"))


def inside(page: str, target: str) -> str | None:
    """A link's target as a path in the repository; None where it leads to the web."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return None
    return posixpath.normpath(str(home_of(page).parent / target))


def pictures(page: str) -> list[str]:
    """The pictures outside ``docs`` that a page shows, as paths in the repository."""
    text = (ROOT / home_of(page)).read_text(encoding="utf-8")
    found = [inside(page, match[2]) for match in LINK.finditer(text)]
    return [f for f in found if f and f.lower().endswith(PICTURES) and not f.startswith("docs/")]


def on_files(files, config):
    """Take the pages of ``ELSEWHERE`` and their pictures into the site."""
    pages = [file.src_uri for file in files if file.src_uri.endswith(".md")]
    for page, home in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / home)))
    for picture in dict.fromkeys(p for page in (*pages, *ELSEWHERE) for p in pictures(page)):
        files.append(File.generated(config, f"pictures/{picture}", abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files outside ``docs``: to their page or picture here, else to the repository."""
    uri = page.file.src_uri

    def moved(match: re.Match) -> str:
        target = inside(uri, match[2])
        if target is None:
            return match[0]
        if target in PAGES:
            there = PAGES[target]
        elif f"pictures/{target}" in files.src_uris:
            there = f"pictures/{target}"
        elif target.startswith("docs/"):
            there = target[len("docs/") :]
        elif (ROOT / target).exists():
            return f"{match[1]}{config.repo_url}/blob/main/{target}{match[3] or ''}{match[4]}"
        else:
            return match[0]  # a dead link: the strict build says so
        here = posixpath.relpath(there, posixpath.dirname(uri) or ".")
        return f"{match[1]}{here}{match[3] or ''}{match[4]}"

    return LINK.sub(moved, markdown)
