"""The codes of lz_err.h and the classes of lazarus.errors are one table."""

from __future__ import annotations

import re
from pathlib import Path

from lazarus import errors


def test_every_native_code_has_its_class() -> None:
    header = (Path(__file__).parent.parent / "csrc/base/lz_err.h").read_text()
    codes = {name: int(code) for name, code in re.findall(r"LZ_E_(\w+) = (-\d+)", header)}
    assert len(codes) >= 7
    for name, code in codes.items():
        kind = errors.NATIVE_CODES[code]
        assert kind.__name__ == name.capitalize() + "Error"
        raised = errors.from_code(code, "the line", b"/a")
        assert type(raised) is kind and str(raised) == "/a: the line"


def test_errno_stays_an_os_error() -> None:
    raised = errors.from_code(-28, "", "/dev/full")
    assert isinstance(raised, OSError) and raised.errno == 28 and raised.filename == "/dev/full"
