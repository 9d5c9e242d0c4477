"""Which files of `src/` a Python file can import, found by reading it."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"


def module_file(name: str) -> Path | None:
    """Return the file of a module of this project, None for anything else."""
    base = SRC.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imported(path: Path) -> set[Path]:
    """Return the project's files that `path` imports, at any depth of its own code."""
    found: set[Path] = set()
    package = path.relative_to(SRC).with_suffix("").parts if path.is_relative_to(SRC) else ()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: -node.level], *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] != "seedtalk":
                continue
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                file = module_file(".".join(parts[:depth]))
                if file is not None:
                    found.add(file)
    return found


def closure(path: Path) -> set[Path]:
    """Return every project file reachable from `path` by imports, itself left out."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        for file in imported(waiting.pop()):
            if file not in seen:
                seen.add(file)
                waiting.append(file)
    return seen
