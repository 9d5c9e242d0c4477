"""Shared by the tests of students: a toy student on disk, read once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.toy import toy_student

from seedtalk.students.loading import load_base


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Toy models gain nothing from threads, and lose much to a busy neighbour's."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_student(tmp_path_factory.mktemp("toy") / "student")


@pytest.fixture(scope="session")
def student(student_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    return load_base(str(student_folder), cache_dir=tmp_path_factory.mktemp("cache"))
