"""What a registration costs at this commit against another, as a ratio: ``make benchmark [BASE=commit]``.

    python Testing/benchmark/regression.py BASE [--pair FIXED MOVING] [--rounds 3] [--presets fast balanced]

Both run by turns (A B A B ...), each time as a process from files to files, so that what else the machine
does falls on both. Prints the ratios of the least CPU seconds, of the largest memory and of the transforms'
bytes; exit code 1 where one is above ``--most``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ProgressiveRegistrationLib.benchmark.measure import measured

ROOT = Path(__file__).resolve().parents[2]
RUN = "import sys; from ProgressiveRegistrationLib.cli import main; sys.exit(main())"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", nargs="?", help="commit or tag; default: the last release")
    parser.add_argument("--pair", nargs=2, type=Path, help="default: the made-up chest of seed 0")
    parser.add_argument("--presets", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--most", type=float, default=1.15, help="the ratio that is still accepted")
    given = parser.parse_args()
    given.base = given.base or last_release()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = work / "base"
        git("worktree", "add", "--quiet", "--detach", str(base), given.base)
        try:
            sys.exit(compare(base, work, given))
        finally:
            git("worktree", "remove", "--force", str(base))


def last_release(root: Path = ROOT) -> str:
    """The commit that CHANGELOG.md names for the newest version in it (a clone need not have tags)."""
    found = re.search(
        r"^Released as commit ([0-9a-f]{7,40})\.", (root / "CHANGELOG.md").read_text("utf-8"), re.M
    )
    if not found:
        sys.exit("CHANGELOG.md names no release's commit; name one: make benchmark BASE=commit.")
    return found[1]


def git(*arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)} failed: {done.stderr.strip()}")


def compare(base: Path, work: Path, given: argparse.Namespace) -> int:
    """Run by turns and print; the exit code."""
    pair = given.pair
    if pair is None:
        registered(ROOT, ["phantom", "-o", str(work / "pair")], work, given.threads)
        pair = [work / "pair" / f"{name}.nrrd" for name in ("fixed", "moving")]
    worst = 0.0
    print(f"preset,figure,{given.base},this,ratio")
    for preset in given.presets:
        seconds, memory, size = {}, {}, {}
        for turn in range(given.rounds):
            for tree in (base, ROOT):
                out = work / f"{preset}-{turn}-{tree.name}"
                options = ["-o", str(out), "--preset", preset, "--quiet"]
                cost = registered(tree, ["register", *map(str, pair), *options], work, given.threads)
                seconds[tree] = min(seconds.get(tree, float("inf")), cost.cpu_seconds)
                memory[tree] = max(memory.get(tree, 0.0), cost.memory_bytes / 2**20)
                size[tree] = (out / "transform.h5").stat().st_size / 1e6
        for name, values in (("CPU s", seconds), ("memory MiB", memory), ("transform MB", size)):
            ratio = values[ROOT] / values[base]
            worst = max(worst, ratio)
            print(f"{preset},{name},{values[base]:.1f},{values[ROOT]:.1f},{ratio:.2f}", flush=True)
    return int(worst > given.most)


def registered(tree: Path, arguments: list[str], work: Path, threads: int):
    """The cost of a command of one tree."""
    os.environ["PYTHONPATH"] = str(tree / "ProgressiveRegistration")
    log = work / "log.txt"
    cost = measured([sys.executable, "-c", RUN, *arguments], log, threads)
    if cost.exit_code:
        sys.exit(f"{tree}: {log.read_text(encoding='utf-8')[-500:]}")
    return cost


if __name__ == "__main__":
    main()
