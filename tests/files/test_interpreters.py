# SPDX-License-Identifier: Apache-2.0
"""Which Python `--env` means."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from migrator.files.interpreters import interpreter
from migrator.messages.errors import MigrateError


@pytest.mark.parametrize("name", ["python", "python3"])
def test_an_interpreter_keeps_its_environment(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "env" / "bin" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(sys.executable)
    assert interpreter(tmp_path / "env") == link
    assert interpreter(link) == link
    monkeypatch.chdir(tmp_path)
    assert interpreter(Path("env")) == link


def test_without_an_environment_it_is_the_running_one() -> None:
    assert interpreter(None) == Path(sys.executable)


def test_a_folder_that_is_no_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrateError, match="no bin/python in it"):
        interpreter(tmp_path)
