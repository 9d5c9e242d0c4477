"""What must be true of a machine and a folder before a run can succeed."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

DISK_GIB = 4  # data 0.3, a converted student 0.6, merged registered models 0.6 each, the DVC cache


class Finding(NamedTuple):
    """One thing looked at, and what mends it where it is wrong."""

    ok: bool
    what: str
    mend: str = ""


def diagnose(root: Path) -> list[Finding]:
    """Look at interpreter, packages, data, disk and the teacher's key under `root`."""
    free = shutil.disk_usage(root).free / 2**30
    data = root / "data" / "quickstart"
    return [
        Finding(
            sys.version_info >= (3, 11),
            f"Python {sys.version.split()[0]}",
            "install Python 3.11 or newer and run `make setup`",
        ),
        _packages(root / "requirements.lock"),
        Finding((root / "dvc.yaml").is_file(), f"dvc.yaml in {root}", "run inside the project"),
        Finding(
            shutil.which("git") is not None,
            "git on PATH",
            "install git: DVC experiments and tracking tags need it",
        ),
        Finding(
            free >= DISK_GIB, f"{free:.0f} GiB of disk free", f"a run wants {DISK_GIB} GiB free"
        ),
        Finding(
            data.is_dir(),
            "quickstart data fetched",
            "run `seedtalk fetch quickstart` (not needed with ingest.source=jsonl)",
        ),
        Finding(
            True,
            "OPENAI_API_KEY is "
            + (
                "set"
                if os.environ.get("OPENAI_API_KEY")
                else "not set (only an LLM teacher needs it)"
            ),
        ),
    ]


def _packages(lock: Path) -> Finding:
    if not lock.is_file():
        return Finding(False, "requirements.lock is missing", "run inside the project")
    wrong = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        pinned = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line.strip())
        if pinned is None:
            continue
        name, version = pinned.groups()
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "missing"
        if found.split("+")[0] != version:
            wrong.append(f"{name} {found} (pinned {version})")
    return Finding(
        not wrong,
        "packages as pinned in requirements.lock"
        if not wrong
        else f"{len(wrong)} package(s) not as pinned: {', '.join(wrong[:5])}",
        "run `make setup`",
    )
