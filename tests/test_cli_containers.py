"""The verbs of containers as a user types them: output, exit codes, streams, signals, terminals."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Command
from container_helpers import IMAGE, until

from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root


@pytest.fixture
def lazarus(store: Store) -> Command:
    return Command(store.paths.root)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
        (["nope"], 127),
        (["/nope"], 127),
        (["/etc"], 126),
        (["/data/file"], 126),
    ],
    ids=str,
)
def test_exit_codes(lazarus: Command, words: list[str], code: int) -> None:
    if words == ["true"]:
        words = ["sh", "-c", ":"]
    for options in (["--rm"], [], ["--rm", "-t"]):
        result = lazarus("run", *options, IMAGE, *words)
        assert result.code == code, result
    assert lazarus.ok("ps", "-aq").count("\n") == 0


def test_engine_errors_are_125(lazarus: Command) -> None:
    for words in (
        ["-v", "/nowhere:/x", IMAGE, "sh"],
        ["--name", "a/b", IMAGE],
        ["--hostname", "a b", IMAGE],
        ["none:1"],
    ):
        assert lazarus("run", "--rm", *words).code == 125
    assert lazarus.ok("ps", "-aq") == ""
    assert lazarus("run", "--rm", IMAGE, "sh", env={"LAZARUS_RUNTIME": "/nowhere"}).code == 125


def test_a_life(lazarus: Command) -> None:
    identity = lazarus.ok(
        "create", "--name", "c1", "-l", "k=v", IMAGE, "sh", "-c", "echo out; echo err >&2; cat /x; exit 3"
    )
    assert re.fullmatch(r"[0-9a-f]{64}", identity)
    assert lazarus("create", "--name", "c1", IMAGE).code == 1
    assert "Created" in lazarus.ok("ps", "-a") and lazarus.ok("ps", "-q") == ""
    result = lazarus("start", "-a", "c1")
    assert (result.code, result.out) == (3, "out\n") and result.err.startswith("err\n")
    (row,) = json.loads(lazarus.ok("ps", "-a", "--format", "json"))
    assert (row["Id"], row["Names"], row["State"], row["ExitCode"]) == (identity, ["c1"], "exited", 3)
    assert row["Status"].startswith("Exited (3)") and row["Labels"] == {"k": "v"}
    logs = lazarus("logs", "c1")
    assert (logs.out, logs.err) == (result.out, result.err)
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z out\n", lazarus("logs", "-t", "-n", "3", "c1").out)
    assert lazarus.ok("start", "c1") == "c1" and lazarus.ok("wait", "c1") == "3"
    assert lazarus.ok("rename", "c1", "c2") == "" and lazarus("logs", "c1").code == 1
    (facts,) = json.loads(lazarus.ok("inspect", identity[:10]))
    assert facts["Name"] == "c2"
    assert json.loads(lazarus.ok("inspect", "--type", "image", IMAGE))[0]["Id"].startswith("sha256:")
    assert lazarus("inspect", "--type", "container", IMAGE).code == 1
    assert lazarus.ok("rm", "c2") == "c2"


def test_in_the_background(lazarus: Command) -> None:
    started = time.monotonic()
    identity = lazarus.ok(
        "run", "-d", "--name", "bg", IMAGE, "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"
    )
    assert time.monotonic() - started < 5, "its streams are not the caller's"
    until(lambda: lazarus.ok("logs", "bg") == "up")
    assert lazarus.ok("ps", "-q") == identity[:12] and lazarus.ok("ps", "-q", "--no-trunc") == identity
    assert "Up " in lazarus.ok("ps")
    assert lazarus("rm", "bg").code == 1
    assert (
        lazarus.ok("exec", "-e", "A=1", "-w", "/data", "-u", "bob", "bg", "sh", "-c", "echo $A; pwd; id -un")
        == "1\n/data\nbob"
    )
    assert lazarus("exec", "bg", "sh", "-c", "exit 9").code == 9
    assert [lazarus("exec", *words).code for words in (["bg", "nope"], ["bg", "/etc"], ["no", "ls"])] == [127, 126, 125]
    assert lazarus.ok("exec", "-i", "bg", "cat", stdin=b"typed") == "typed"
    assert lazarus.ok("exec", "-d", "bg", "sh", "-c", "echo > /later") == ""
    until(lambda: "A /later" in lazarus.ok("diff", "bg"))
    assert lazarus.ok("stop", "bg") == "bg" and lazarus.ok("wait", "bg") == "5"
    assert lazarus("exec", "bg", "ls").code == 125
    result = lazarus("kill", "bg")
    assert result.code == 1 and "not running" in result.err
    assert lazarus.ok("run", "-d", "--rm", IMAGE, "sh", "-c", ":")
    until(lambda: lazarus.ok("ps", "-aq").count("\n") == 0)


def test_several_at_once_and_one_that_fails(lazarus: Command) -> None:
    for name in ("a", "b"):
        lazarus.ok("create", "--name", name, IMAGE)
    result = lazarus("rm", "a", "none", "b")
    assert (result.code, result.out) == (1, "a\nb\n") and result.err.count("\n") == 1
    for name in ("a", "b"):
        lazarus.ok("run", "-d", "--name", name, IMAGE, "sleep", "60")
    assert lazarus.ok("rm", "-f", "a", "none", "b") == "a\nb"


def test_filters(lazarus: Command) -> None:
    lazarus.ok("create", "--name", "web-1", "-l", "tier=web", IMAGE)
    lazarus.ok("create", "--name", "web-2", "-l", "tier=web", "-l", "blue", IMAGE)
    lazarus.ok("run", "-d", "--name", "db", IMAGE, "sleep", "60")

    def names(*filters: str) -> set[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return {row["Names"][0] for row in json.loads(lazarus.ok("ps", "-a", "--format", "json", *words))}

    assert names() == {"web-1", "web-2", "db"}
    assert names("name=web") == names("status=created") == names("label=tier") == {"web-1", "web-2"}
    assert names("label=tier=web", "label=blue") == names("name=web", "label=blue") == {"web-2"}
    assert names("name=web-1", "name=db") == {"web-1", "db"}
    assert names("status=running") == {"db"} and names(f"ancestor={IMAGE}") == names()
    assert names("label=tier=db") == set()
    assert lazarus.ok("ps", "-q", "-f", "status=created").count("\n") == 1, "a status needs no -a"


def test_environment_files_and_ids(lazarus: Command, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nA=1\n\n  B=2 3\nFROM_HERE\n")
    words = ["run", "--rm", "--env-file", str(tmp_path / "env"), "-e", "A=own", IMAGE, "env"]
    assert {"A=own", "B=2 3", "FROM_HERE=x"} <= set(lazarus.ok(*words, env={"FROM_HERE": "x"}).splitlines())
    assert lazarus("run", "--rm", "--env-file", "/nowhere", IMAGE, "env").code == 125


def test_stdin(lazarus: Command) -> None:
    assert lazarus.ok("run", "--rm", "-i", IMAGE, "cat", stdin=b"typed\n") == "typed"
    assert lazarus.ok("run", "-i", IMAGE, "cat", stdin=b"x" * 300_000) == "x" * 300_000
    assert lazarus.ok("run", "--rm", IMAGE, "cat", stdin=b"not read") == ""


def test_output_that_nobody_reads(lazarus: Command) -> None:
    """`| head -1`: with a log, without, and through a terminal, the container ends."""
    for options in (["--rm"], [], ["--rm", "-t"]):
        words = lazarus.words("run", *options, IMAGE, "sh", "-c", "while echo y; do :; done")
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline().strip() == b"y"
            process.stdout.close()
            process.wait(timeout=20)
            assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("options", [["--rm"], []])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signals_are_forwarded(lazarus: Command, options: list[str], number: signal.Signals) -> None:
    script = f"trap 'exit {number + 20}' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    words = lazarus.words("run", *options, IMAGE, "sh", "-c", script)
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(timeout=20) == number + 20


def conversation(words: list[str | bytes], steps: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """Runs a command in a terminal of its own; each step waits for a pattern, then types a text."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(words[0], words)
    seen = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if steps and re.search(steps[0][0], seen):
            os.write(terminal, steps.pop(0)[1])
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            piece = b""
        if not piece:
            break
        seen += piece
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert steps == [] and code != -signal.SIGKILL, (steps, seen)  # killed: it did not end within 30 s
    return code, seen


def test_a_terminal(lazarus: Command) -> None:
    words = lazarus.words("run", "--rm", "-it", IMAGE, "sh")
    steps = [
        (b"# ", b"tty; echo $TERM; stty size\r"),
        (b"0 0", b"read x\r"),
        (b"read x", b"\x03"),
        # Not before: the shell may throw away what it had read when interrupted, the terminal the end of the line.
        (rb"\^C(\r\n)?# ", b"exit 7\r"),
    ]
    code, seen = conversation(words, steps)
    assert code == 7 and b"/dev/" in seen and b"xterm" in seen, seen


def test_a_terminal_for_exec_and_start(lazarus: Command) -> None:
    lazarus.ok("run", "-d", "--name", "t", IMAGE, "sleep", "60")
    assert conversation(lazarus.words("exec", "-it", "t", "sh"), [(b"# ", b"exit 4\r")])[0] == 4
    lazarus.ok("create", "--name", "s", "-it", IMAGE, "sh")
    assert conversation(lazarus.words("start", "-ai", "s"), [(b"# ", b"exit 5\r")])[0] == 5


def test_interrupting_without_a_terminal_of_its_own(lazarus: Command) -> None:
    """Ctrl-C in front of `run` without -t goes to the container, once."""
    script = "trap 'echo caught; exit 6' INT; echo ready; while :; do sleep 0.05; done"
    code, seen = conversation(lazarus.words("run", "--rm", IMAGE, "sh", "-c", script), [(b"ready", b"\x03")])
    assert code == 6 and seen.count(b"caught") == 1


def test_diff_and_commit(lazarus: Command, tmp_path: Path) -> None:
    script = "rm /data/link; chmod 600 /etc/passwd; mv /home /house"
    lazarus.ok("run", "--name", "c", IMAGE, "sh", "-c", script)
    lines = lazarus.ok("diff", "c").splitlines()
    assert {"D /data/link", "C /etc/passwd", "D /home", "A /house", "A /house/bob"} <= set(lines)
    rows = json.loads(lazarus.ok("diff", "c", "--format", "json"))
    assert [f"{row['change']} {row['path']}" for row in rows] == lines
    words = ["commit", "-m", "why", "-a", "me", "-c", 'CMD ["ls", "/house"]', "--compression", "zstd", "c", "mine:1"]
    first = lazarus.ok(*words, env={"SOURCE_DATE_EPOCH": "1700000000"})
    assert first == lazarus.ok(*words, env={"SOURCE_DATE_EPOCH": "1700000000"})
    assert lazarus.ok("run", "--rm", "mine:1") == "bob"
    (step, *_) = json.loads(lazarus.ok("history", "mine:1", "--format", "json"))
    assert step["comment"] == "why"
    for words in (["-c", "FROM x"], ["--compression", "xz"], ["--pause", "maybe"]):
        assert lazarus("commit", *words, "c", "no:1").code in (1, 2)
    assert lazarus("commit", "c", "NO").code == 1
    assert lazarus("commit", "c", env={"SOURCE_DATE_EPOCH": "x"}).code == 1
    lazarus.ok("export", "-o", str(tmp_path / "out.tar"), "c")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert "house/bob" in [name.strip("/") for name in tar.getnames()]
    with tarfile.open(fileobj=io.BytesIO(lazarus("export", "c").raw)) as tar:
        assert len(tar.getnames()) > 20


def test_cp(lazarus: Command, tmp_path: Path) -> None:
    lazarus.ok("create", "--name", "c", IMAGE)
    (tmp_path / "f").write_text("x")
    assert lazarus.ok("cp", f"{tmp_path}/f", "c:/data/") == ""
    lazarus.ok("cp", "c:/data/f", f"{tmp_path}/g")
    assert (tmp_path / "g").read_text() == "x"
    tar = lazarus("cp", "c:/data", "-").raw
    lazarus.ok("cp", "-", "c:/tmp", stdin=tar)
    lazarus.ok("cp", "c:/tmp/data/f", f"{tmp_path}/h")
    for words in (["c:/none", "."], ["/none", "c:/"], ["none:/x", "."]):
        assert lazarus("cp", *words).code == 1


def test_mount_and_umount(lazarus: Command) -> None:
    lazarus.ok("create", "--name", "c", IMAGE)
    path = Path(lazarus.ok("mount", "c"))
    assert (path / "data/file").read_text() == "from the image\n" and str(path) in lazarus.ok("mount")
    assert lazarus.ok("umount", "c") == "c" and not path.is_mount() and lazarus.ok("mount") == ""
    lazarus.ok("mount", "c")
    assert lazarus.ok("umount", str(path)) and not path.is_mount()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "target").mkdir()
    yield tmp_path / "target"
    subprocess.run(["umount", tmp_path / "target"], stderr=subprocess.DEVNULL)


def test_umount_of_a_name(lazarus: Command, tmp_path: Path, target: Path) -> None:
    """A container's, if there is one, else that of a directory where something is mounted."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    result = lazarus("umount", "target", cwd=tmp_path)
    assert result.code == 1 and result.err == "lazarus: container 'target': not in this store\n"
    lazarus.ok("union", f"{tmp_path}/a:{tmp_path}/b", "target", cwd=tmp_path)
    assert lazarus.ok("umount", "target", cwd=tmp_path) == "target" and not target.is_mount()
    lazarus.ok("union", f"{tmp_path}/a:{tmp_path}/b", "target", cwd=tmp_path)
    begins = lazarus.ok("create", "--name", "target", IMAGE)[:4]
    mounted = Path(lazarus.ok("mount", "target"))
    assert lazarus.ok("umount", "target", cwd=tmp_path) == "target" and target.is_mount() and not mounted.is_mount()
    lazarus.ok("umount", "./target", cwd=tmp_path)
    (tmp_path / begins).symlink_to("target")
    lazarus.ok("union", f"{tmp_path}/a:{tmp_path}/b", "./target", cwd=tmp_path)
    assert lazarus.ok("umount", begins, cwd=tmp_path) == begins and not target.is_mount(), "an ID that begins so"


def test_union(lazarus: Command, tmp_path: Path, target: Path) -> None:
    for name in ("a", "b", "upper", "work"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name) if len(name) == 1 else None
    lowers = f"{tmp_path}/a:{tmp_path}/b"
    lazarus.ok("union", lowers, "--upper", f"{tmp_path}/upper", "--work", f"{tmp_path}/work", str(target))
    assert {path.name for path in target.iterdir()} == {"a", "b"}
    (target / "new").write_text("x")
    assert (tmp_path / "upper/new").read_text() == "x"
    with (target / "new").open():
        result = lazarus("umount", str(target))
        assert result.code == 1 and "in use by another process" in result.err
    assert lazarus.ok("umount", str(target)) == str(target) and not target.is_mount()
    lazarus.ok("union", lowers, str(target))
    with pytest.raises(OSError, match="Read-only"):
        (target / "x").touch()
    lazarus.ok("umount", "./target", cwd=tmp_path)
    odd = tmp_path / "a:b\\ c"
    odd.mkdir()
    (odd / "odd").touch()
    (odd / "target").mkdir()
    escaped = str(odd).replace("\\", "\\\\").replace(":", "\\:")
    lazarus.ok("union", f"{escaped}/target:{tmp_path}/a", str(target))
    lazarus.ok("umount", str(target))
    lazarus.ok("union", f"{tmp_path}/a:{tmp_path}/b", str(odd / "target"))
    assert {path.name for path in (odd / "target").iterdir()} == {"a", "b"}
    assert lazarus.ok("umount", str(odd / "target"))
    for words in (
        [f"{tmp_path}/none", str(target)],
        [lowers, "--upper", f"{tmp_path}/upper", str(target)],
        ["", str(target)],
    ):
        assert lazarus("union", *words).code == 1


def test_the_store(lazarus: Command) -> None:
    lazarus.ok("run", "--name", "c", IMAGE, "sh", "-c", "echo > /x")
    usage = json.loads(lazarus.ok("system", "df", "--format", "json"))
    assert usage["containers"]["count"] == 1 and usage["root"] == lazarus.root
    table = lazarus.ok("system", "df")
    assert "containers" in table and "volumes" not in table, "there are none yet"
    assert lazarus.ok("system", "check") == "0 problems"
    facts = json.loads(lazarus.ok("system", "info", "--format", "json"))
    assert (facts["Containers"], facts["Running"]) == (1, 0)
    lazarus.ok("commit", "c", "moved:1")
    lazarus.ok("commit", "-m", "another", "c", "moved:1")  # takes the name from the first
    (unnamed,) = [image["Id"] for image in json.loads(lazarus.ok("images", "--format", "json")) if not image["Names"]]
    container, image = lazarus.ok("ps", "-aq"), unnamed[7:19]
    planned = lazarus.ok("system", "prune", "--containers", "-n")
    assert planned.splitlines()[:-1] == [f"container {container} c", f"image {image} <none>"]
    assert planned.splitlines()[-1].startswith("would remove: 1 container, 1 image, 2 blobs, 0 layers, ")
    assert lazarus.ok("ps", "-aq") == container
    as_json = json.loads(lazarus.ok("system", "prune", "--containers", "-n", "--format", "json"))
    assert as_json["images"] == [{"id": unnamed, "names": []}] and as_json["containers"][0]["name"] == "c"
    assert lazarus.ok("system", "prune", "--containers", "-f") == planned.replace("would remove", "removed")
    assert lazarus.ok("ps", "-aq") == "" and lazarus.ok("images", "-q")
    lazarus.ok("rmi", "moved:1")


def test_without_the_right_to_mount(lazarus: Command) -> None:
    """What needs root says so in one line, and leaves nothing."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    for options in ([], ["--rm"], ["-d"]):
        words = lazarus.words("run", "--name", "x", *options, IMAGE, "sh")
        done = subprocess.run(["setpriv", "--bounding-set=-sys_admin", *words], capture_output=True, text=True)
        assert done.returncode == 125 and done.stderr.count("\n") == 1 and "CAP_SYS_ADMIN" in done.stderr
        assert "containers need root: " in done.stderr
        lazarus.ok("rm", "-f", "x")


def test_without_root(small_tar: Path) -> None:
    """One line says that root is needed, and what works without; nothing is left, and that does work."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    words = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    with tempfile.TemporaryDirectory() as place, open(small_tar, "rb") as tar:  # tmp_path is root's alone
        os.chown(place, 1000, 1000)
        own = Command(f"{place}/store")

        def as_user(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*words, *own.words(*command)], capture_output=True, text=True, cwd="/", **options)

        if as_user("version").returncode != 0:
            pytest.skip("another user cannot read this checkout")
        assert as_user("import", "-", "small:1", stdin=tar).returncode == 0
        assert as_user("images", "-q").stdout.count("\n") == 1
        for verb, code in (("create", 1), ("run", 125)):
            done = as_user(verb, "small:1", "sh")
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
            assert "containers need root: " in done.stderr and "without it work load, save" in done.stderr
        assert as_user("ps", "-aq").stdout == ""
