"""`lazarus completion SHELL`: what the script offers, asked of a real bash as a press of the tabulator key does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cli_helpers import Command

from lazarus.cli import VERBS

ASK = """
source "$0"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
read -r _ _ function _ <<< "$(complete -p lazarus | grep -o -- '-F [^ ]*' | sed 's/^/x /')"
"$function" lazarus "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("completion")
    (place / "script").write_text(Command(place).ok("completion", "bash"))
    return place / "script"


def offered(script: Path, *words: str) -> set[str]:
    done = subprocess.run(["bash", "-c", ASK, str(script), "lazarus", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


def test_bash(script: Path) -> None:
    assert offered(script, "im") == {"import", "images", "image"}
    assert offered(script, "") >= {name.split()[0] for name in VERBS}
    assert offered(script, "run", "--net") == {"--network", "--net"}
    assert offered(script, "run", "--network", "") == {"none", "host"}
    assert offered(script, "system", "p") == {"prune"}


@pytest.mark.parametrize("shell", ["zsh", "tcsh", "fish"])
def test_other_shells(tmp_path: Path, shell: str) -> None:
    assert "import" in Command(tmp_path).ok("completion", shell)


def test_a_shell_that_is_none(tmp_path: Path) -> None:
    result = Command(tmp_path)("completion", "cmd.exe")
    assert (result.code, result.out) == (2, "") and "cmd.exe: not one of bash, zsh" in result.err
