"""The fuzz corpora are what their scripts write, so that a name never says what a file is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parent / "fuzz"


@pytest.mark.parametrize("script", sorted(FUZZ.glob("make_*_corpus.py")), ids=lambda path: path.stem)
def test_corpus_is_what_its_script_writes(script: Path) -> None:
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_target_has_a_corpus() -> None:
    targets = {path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.c")}
    assert targets == {path.name for path in (FUZZ / "corpus").iterdir()}
    for target in targets:
        assert any((FUZZ / "corpus" / target).iterdir()), target
