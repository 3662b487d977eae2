"""The real command in a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import IO, Any

COMMAND = [str(Path(sys.executable).with_name("lazarus"))]


class Result:
    """How a command ended, and what it said."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code, self.raw, self.out, self.err = code, out, out.decode(errors="replace"), err.decode(errors="replace")
        assert "Traceback" not in self.err and "mistake in lazarus" not in self.err, self.err

    def __repr__(self) -> str:
        return f"<{self.code}: {self.out!r} {self.err!r}>"


class Command:
    """`lazarus --root ROOT`."""

    def __init__(self, root: Path | str) -> None:
        self.root = str(root)

    def __call__(
        self, *words: str | bytes, stdin: bytes | IO[Any] = b"", env: dict[str, str] | None = None, **options: Any
    ) -> Result:
        """Runs it to its end."""
        source: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        done = subprocess.run(
            self.words(*words),
            **source,
            env={**os.environ, **(env or {})},
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            timeout=options.pop("timeout", 60),
            **options,
        )
        return Result(done.returncode, done.stdout or b"", done.stderr)

    def words(self, *words: str | bytes) -> list[str | bytes]:
        """The whole command line."""
        return [*COMMAND, "--root", self.root, *words]

    def ok(self, *words: str | bytes, **options: Any) -> str:
        """Runs it, and it must succeed: what it printed."""
        result = self(*words, **options)
        assert result.code == 0, result
        return result.out.strip()

    def import_something(self, reference: str) -> None:
        """An image of one empty file."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("file"))
        self.ok("import", "-", reference, stdin=out.getvalue())
