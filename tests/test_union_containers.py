"""image.stack() and container.stack(): one upper, two drivers, never at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from container_fixtures import small_root, small_tar, store
from container_helpers import IMAGE, sh, start

from lazarus.errors import ConflictError, CorruptError, LazarusError, NotFoundError
from lazarus.store import Store

pytestmark = pytest.mark.root
__all__ = ["small_root", "small_tar", "store"]


def test_an_image_is_read(store: Store) -> None:
    image = store.images.get(IMAGE)
    with image.stack() as stack:
        assert stack.open("/etc/passwd").read().startswith("root:")
        assert (
            stack.layers == tuple(stack.layers)
            and len(stack.entries) == sum(len(some) + len(more) for _, some, more in stack.walk()) + 1
        )
        with pytest.raises(OSError, match=r".") as caught:
            stack.mkdir("x")
        assert caught.value.errno == errno.EROFS


def test_an_image_with_an_upper(store: Store, tmp_path: Path) -> None:
    with store.images.get(IMAGE).stack(upper=tmp_path) as stack:
        stack.open("/etc/passwd", "a").close()
    assert (tmp_path / "etc/passwd").exists() and os.path.isdir(f"{tmp_path}.work")


def test_both_drivers_see_one_tree(store: Store) -> None:
    container = sh(store, "cat /greeting; rm -r /stack; echo kernel >/kernel; chmod 600 /etc/group; mv /lib64 /lib65")
    with container.stack() as stack:
        stack.mkdir("/stack")
        stack.open("/stack/file", "w").close()
        with stack.open("/greeting", "w") as file:
            file.write("from the stack")
        stack.rename("/etc/passwd", "/etc/passwd2")
        stack.rename("/etc/passwd2", "/etc/passwd")
        changes = list(stack.diff())
    assert changes == container.diff() and [
        change.path for change in changes if change.change == "A" and change.path != b"/stack/file"
    ] == [b"/greeting", b"/stack"]
    assert start(container) == (0, "from the stack")
    with container.stack() as stack:
        assert stack.open("kernel").read() == "kernel\n" and stack.lookup("stack") is None
        assert stack.stat("etc/group").st_mode & 0o777 == 0o600 and stack.listdir("lib65")
        stack.unlink("kernel")
    assert b"/kernel" not in [change.path for change in container.diff()]


def test_block_by_block_is_settled_for_others(store: Store) -> None:
    """What was written block by block is whole for the kernel and for a commit, also when nobody closed the stack."""
    container = sh(store, "wc -c </bin/sh; sh -c 'exit 3'")
    with container.stack(rung="blocks") as stack:
        path = stack.realpath("/bin/sh")
        size = stack.stat(path).st_size
        with stack.open(path, "ab") as file:
            file.write(b"tail")
        info = stack.lookup(path)
        assert info is not None and info.unsettled
    assert start(container) == (3, f"{size + 4}\n")
    script = """if True:
        import os, sys, lazarus
        with lazarus.Store(sys.argv[1]) as store:
            stack = store.containers.get(sys.argv[2]).stack(rung="blocks")
            with stack.open("/etc/group", "r+b") as file:
                file.write(b"ROOT")
            os._exit(0)
    """
    subprocess.run([sys.executable, "-c", script, store.paths.root, container.id], check=True)
    assert os.listdir(f"{container.directory}/union/blocks")  # nothing of it is whole yet
    container.commit("small:committed")
    with store.images.get("small:committed").stack() as stack:
        group = stack.open("/etc/group").read()
    assert group.startswith("ROOT:") and group.endswith("wheel:x:10:root\n")
    container.mount()
    assert not os.path.exists(f"{container.directory}/union/blocks")
    assert Path(container.rootfs, "etc/group").read_text() == group
    container.unmount()


KILLED_WRITER = """if True:
    import os, sys, lazarus
    store = lazarus.Store(sys.argv[1])
    stack = store.containers.get(sys.argv[2]).stack(rung="blocks")
    file = stack.open("/etc/group", "r+b", buffering=0)
    file.write(b"ROOT")
    print("written", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), 9)
"""


def test_what_is_not_settled_is_read_by_others(store: Store) -> None:
    """While its writer is alive, and when it was killed; read-only stacks change nothing."""
    container = sh(store, "read line </etc/group; echo ${line%%:*}")
    words = [sys.executable, "-c", KILLED_WRITER, store.paths.root, container.id]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"written\n"
        for _ in range(2):
            with container.stack(read_only=True) as stack:
                assert stack.read_only and stack.open("/etc/group").read(5) == "ROOT:"
                for change in (
                    lambda: stack.open("/etc/group", "r+b"),
                    lambda: stack.open("/new", "wb"),
                    lambda: stack.truncate("/etc/group", 0),
                    lambda: stack.unlink("/etc/group"),
                    lambda: stack.mkdir("/new"),
                    stack.settle,
                ):
                    with pytest.raises(OSError) as caught:
                        change()
                    assert caught.value.errno == errno.EROFS
            assert writer.stdin is not None
            if writer.poll() is None:
                writer.stdin.close()
                assert writer.wait() == -9
    assert os.listdir(f"{container.directory}/union/blocks")
    assert start(container)[1].strip() == "ROOT"


def test_a_map_that_is_gone_is_told(store: Store) -> None:
    """Without it a file of which only some blocks are there would be taken for whole."""
    container = sh(store, "read line </etc/group; echo ${line%%:*}")
    words = [sys.executable, "-c", KILLED_WRITER, store.paths.root, container.id]
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    assert list(store.check()) == [], "half of it is there, and the rest is its image's"
    blocks = Path(container.directory, "union/blocks")
    for name in os.listdir(blocks):
        (blocks / name).unlink()
    (problem,) = store.check()
    assert (problem.kind, problem.name, problem.repaired) == ("container", container.id, False)
    assert problem.text.startswith(f"container {container.name}: /etc/group: ") and "is gone" in problem.text
    for asked in (lambda: start(container), container.mount, lambda: container.commit("small:bad")):
        with pytest.raises(LazarusError, match=r"block map .* is gone"):
            asked()
    with container.stack(read_only=True) as stack, pytest.raises(CorruptError, match=r"block map .* is gone"):
        stack.open("/etc/group")


def test_never_at_once(store: Store) -> None:
    container = sh(store, "sleep 60")
    container.mount()
    with pytest.raises(ConflictError, match="is mounted; only a read-only"):
        container.stack()
    Path(container.rootfs, "new").write_text("by the kernel")
    with container.stack(read_only=True) as stack:
        assert stack.open("/new").read() == "by the kernel"
        with pytest.raises(OSError, match=r".") as caught:
            stack.unlink("/new")
        assert caught.value.errno == errno.EROFS
    container.unmount()
    container.start()
    with pytest.raises(ConflictError, match="is running; only a read-only"):
        container.stack()
    with container.stack(read_only=True) as stack:
        assert stack.lookup("/new") is not None
    container.kill()
    container.wait()
    with container.stack() as first, container.stack() as second:  # two of ours may
        for use in (container.mount, container.start, container.remove, lambda: store.containers.still().__enter__()):
            with pytest.raises(ConflictError, match="open for writing"):
                use()
        first.open("/seen", "w").close()
        assert second.exists("/seen")
        file = first.open("/held", "wb", 0)
    with pytest.raises(ConflictError, match="open for writing"):  # a file is left
        container.mount()
    file.write(b"late")
    file.close()
    container.mount()
    assert Path(container.rootfs, "held").read_bytes() == b"late"
    container.unmount()
    container.remove()
    with pytest.raises(NotFoundError):
        container.stack()


def test_stats_add_up(store: Store) -> None:
    container = sh(store, "true")
    assert container.stats == ({}, 0, 0, 0)
    for number in range(2):
        with container.stack(rung="read-write") as stack:
            with stack.open("/etc/passwd" if number else "/etc/group", "ab") as file:
                file.write(b"12345")
            once = stack.stats
            assert once.copyups == {"read-write": 1} and once.bytes_asked == 5 and once.bytes_copied > 30
    stats = container.stats
    assert stats.copyups == {"read-write": 2} and stats.bytes_asked == 10 and stats.bytes_copied > once.bytes_copied
    Path(container.directory, "stats.json").write_text("{")
    assert container.stats == ({}, 0, 0, 0)


def test_a_container_removed_by_force(store: Store) -> None:
    container = sh(store, "true")
    with container.stack() as stack:
        stack.open("/x", "w").close()
        container.remove(force=True)
    assert not os.path.exists(container.directory)
