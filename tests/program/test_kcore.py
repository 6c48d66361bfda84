# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said where the running kernel cannot be read, and sudo where somebody can be asked."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any, Optional, cast

import drgn
import pytest

from drgn_tools.errors import InputError
from drgn_tools.program import kcore


class Refusing:
    """Stands for a Program that the system gives no /proc/kcore."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.opened: Optional[int] = None

    def set_kernel(self) -> None:
        raise self._error

    def set_core_dump(self, fd: int) -> None:
        self.opened = fd


def refused(number: int) -> str:
    prog = Refusing(OSError(number, os.strerror(number)))
    with pytest.raises(InputError) as caught:
        kcore.open_running_kernel(cast(drgn.Program, prog))
    message = str(caught.value)
    assert message.startswith("the running kernel: ")
    assert "\n" not in message
    return message


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(kcore, "_can_use_sudo", lambda: False)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.parametrize("mask", ["an empty file", "/dev/null", "a folder"])
def test_a_kcore_that_a_container_hides(
    mask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kcore"
    if mask == "an empty file":
        path.touch()
    elif mask == "a folder":
        path.mkdir()
    else:
        path.symlink_to(mask)
    monkeypatch.setattr(kcore, "_KCORE", str(path))
    prog = Refusing(ValueError("not an ELF core file"))  # what drgn says of an empty file
    with pytest.raises(InputError, match="containers hide it; run this on the host"):
        kcore.open_running_kernel(cast(drgn.Program, prog))
    path.unlink() if mask != "a folder" else path.rmdir()
    path.write_bytes(b"something")
    with pytest.raises(ValueError, match="not an ELF core file"):
        kcore.open_running_kernel(cast(drgn.Program, prog))


def test_a_kernel_without_kcore_is_named() -> None:
    assert "no /proc/kcore: it needs CONFIG_PROC_KCORE=y" in refused(errno.ENOENT)


def test_who_is_not_root_is_told_how(nobody: None) -> None:
    assert refused(errno.EACCES).endswith("only root may read /proc/kcore: run this with sudo")


@pytest.mark.parametrize("level", ["integrity", "confidentiality"])
def test_lockdown_is_told_from_what_it_says_of_itself(
    root: None, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "lockdown"
    state.write_text("none integrity confidentiality\n".replace(level, f"[{level}]"))
    monkeypatch.setattr(kcore, "_LOCKDOWN", state)
    assert refused(errno.EPERM).endswith(f"the kernel is locked down (lockdown={level})")


@pytest.mark.parametrize("said", [None, "[none] integrity confidentiality\n", ""])
def test_root_without_the_capability_is_told_of_it(
    root: None, said: Optional[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "lockdown"
    if said is not None:
        state.write_text(said)
    monkeypatch.setattr(kcore, "_LOCKDOWN", state)
    assert "CAP_SYS_RAWIO" in refused(errno.EPERM)


def ask(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Refusing:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(kcore, "_can_use_sudo", lambda: True)
    asked = []

    def open_via_sudo(path: str, flags: int) -> int:
        asked.append((path, flags))
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    monkeypatch.setattr("drgn.internal.sudohelper.open_via_sudo", open_via_sudo)
    prog = Refusing(PermissionError(errno.EACCES, "denied"))
    try:
        kcore.open_running_kernel(cast(drgn.Program, prog))
    finally:
        assert asked == [("/proc/kcore", os.O_RDONLY)]
    return prog


def test_at_a_terminal_sudo_opens_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, 7).opened == 7


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (subprocess.CalledProcessError(1, "sudo"), "sudo did not open /proc/kcore"),
        (PermissionError(errno.EPERM, "no"), "CAP_SYS_RAWIO"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "/proc/kcore: No such file"),
    ],
    ids=["no password", "closed to root, too", "not there"],
)
def test_where_sudo_cannot_either_that_is_said(
    monkeypatch: pytest.MonkeyPatch, answer: Exception, said: str
) -> None:
    monkeypatch.setattr(kcore, "_LOCKDOWN", Path("/nonexistent"))
    with pytest.raises(InputError, match=said):
        ask(monkeypatch, answer)
