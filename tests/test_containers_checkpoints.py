"""checkpoint(), rollback() and what a container then consists of: every view of it shows the same."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from container_fixtures import no_checkpoints_left, small_root, small_tar, store
from container_helpers import IMAGE, descriptors, execute, run, sh, start, until

from lazarus import mounts
from lazarus.containers import Container, chain, rootfs, unmounted
from lazarus.errors import ConflictError, CorruptError, FormatError, LimitError, NotFoundError
from lazarus.store import Store
from lazarus.terms import Mount

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_checkpoints_left")]
__all__ = ["no_checkpoints_left", "small_root", "small_tar", "store"]


def write(container: Container, **files: str) -> None:
    with container.stack() as stack:
        for name, text in files.items():
            with stack.open(f"/{name}", "w") as file:
                file.write(text)


def names(container: Container) -> list[str]:
    return [one.name for one in container.checkpoints()]


def test_it_goes_on_from_there(store: Store) -> None:
    container = sh(store, "cat /one /two 2>&1; echo 2 >/two; cat /two")
    write(container, one="1\n")
    first = container.checkpoint("first")
    assert (first.container_id, first.name, first.parent) == (container.id, "first", None)
    assert os.listdir(f"{container.directory}/upper") == [], "an empty layer"
    write(container, two="?\n")
    assert start(container) == (0, "1\n?\n2\n")
    second = container.checkpoint()
    assert (second.name, second.parent) == ("1", first.key)
    assert container.checkpoint().name == "2"
    assert names(container) == ["first", "1", "2"]
    container.rollback("first")
    assert start(container)[1] == "1\ncat: /two: No such file or directory\n2\n"
    container.rollback(second)
    assert start(container) == (0, "1\n2\n2\n")
    assert container.inspect()["Checkpoint"] == {"Container": container.id, "Name": "1"}


def test_names(store: Store) -> None:
    container = sh(store, ":")
    for name in ("", ".x", "a/b", "a b", "x" * 129, "a@b"):
        with pytest.raises(FormatError, match="not a checkpoint name"):
            container.checkpoint(name)
        with pytest.raises(NotFoundError, match="no checkpoint"):
            container.rollback(name)
    container.checkpoint("a")
    with pytest.raises(ConflictError, match="has a checkpoint a already"):
        container.checkpoint("a")
    container.checkpoint("7")
    assert container.checkpoint().name == "8"
    container.checkpoint("9" * 128)
    assert container.checkpoint().name == "9", "and not one more than that, which is too long"
    other = sh(store, ":")
    with pytest.raises(NotFoundError, match="does not come from"):
        other.rollback(container.checkpoints()[0])
    assert other.checkpoint("a").name == "a", "of another container"


def test_all_views(store: Store, tmp_path: Path) -> None:
    """Renamed directories, whiteouts, opaque directories, attributes alone and hard links of a checkpoint, through
    kernel, stack, diff, commit, cp and export."""
    script = """
        mv /home /house; rm -r /data; mkdir /data; echo new >/data/new; chmod 600 /bin/seq; rm /etc/group; echo a >/a
        ln /a /b; mkdir /d /d/sub; echo x >/d/x; echo y >/d/sub/y; mv /bin/tty /bin/tty2; chmod 700 /bin/tty2
    """
    more = """
        mv /d /e; echo z >/e/sub/z; rm /b; chmod 640 /bin/seq; echo more >>/etc/passwd; echo again >/etc/group
        mv /house /homes; chmod 711 /homes/bob; rm -r /e/sub; mkdir /e/sub; chmod 750 /bin/tty2; ln /a /c
        rm -r /tmp; mv /root /tmp; mkdir /root
    """
    container, plain = sh(store, script), sh(store, script)
    assert start(container) == start(plain) == (0, "")
    container.checkpoint()
    for one in (container, plain):
        subprocess.run(["chroot", one.mount(), "/bin/sh", "-ec", more], check=True)
        one.unmount()
    assert container.diff() == plain.diff()
    listings = []
    for one in (container, plain):
        with open(tmp_path / one.name, "wb") as file:
            one.export(file)
        listings.append(listing(tmp_path / one.name))
        one.mount()
        with open(tmp_path / f"{one.name}.mounted", "wb") as file:
            one.export(file)
        one.unmount()
        listings.append(listing(tmp_path / f"{one.name}.mounted"))
    assert listings[0] == listings[1] == listings[2] == listings[3]
    image, other = container.commit("committed:1"), plain.commit("committed:2")
    assert len(image.diff_ids) == len(other.diff_ids) + 1, "a layer for the checkpoint, one for what came after"
    assert [one for one in store.images.diff(image, other) if one.differs != ("mtime",)] == []


def listing(tar: Path) -> list[tuple[object, ...]]:
    """What an archive holds; hard links as a group of names, for any of them may come first."""
    found = []
    with tarfile.open(tar) as archive:
        for member in archive:
            if member.name.strip("./") in ("proc", "sys", "dev", "etc/hosts", "etc/hostname"):
                continue
            data = archive.extractfile(member).read() if member.isreg() else member.linkname  # type: ignore[union-attr]
            found.append((member.name, member.type, member.mode, member.uid, member.gid, data))
    return sorted(found)


def test_mounted_by_hand(store: Store) -> None:
    container = sh(store, ":")
    place = Path(container.mount())
    (place / "one").write_text("1")
    with open(place / "one"), pytest.raises(ConflictError, match="in use"):
        container.checkpoint("busy")
    assert names(container) == [] and (place / "one").exists(), "nothing has happened"
    container.checkpoint("first")
    (place / "two").write_text("2")
    assert sorted(os.listdir(f"{container.directory}/upper")) == ["two"]
    with open(place / "one"), pytest.raises(ConflictError, match="in use"):
        container.rollback("first")
    container.rollback("first")
    assert (place / "one").read_text() == "1" and not (place / "two").exists()
    container.unmount()


@pytest.mark.parametrize("verb", ["checkpoint", "rollback"])
def test_mounted_by_hand_on_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """When the files are exchanged it has happened: then neither a new work directory nor a mount may find no room."""
    container = sh(store, ":")
    place = Path(container.mount())
    (place / "one").write_text("1")
    container.checkpoint("first")
    (place / "two").write_text("2")
    full, mkdir, attach = ["work.new", "merged"], os.mkdir, mounts.attach

    def check_room(path: str) -> None:
        if full and os.path.basename(path) == full[0]:
            full.pop(0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def make(path: str, mode: int = 0o777) -> None:
        check_room(path)
        mkdir(path, mode)

    def attach_it(mount: Mount, target: str) -> None:
        check_room(target)
        attach(mount, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", make)
        patch.setattr(mounts, "attach", attach_it)
        if verb == "checkpoint":
            container.checkpoint("second")
        else:
            container.rollback("first")
    assert full == [], "both have happened"
    assert names(container) == (["first", "second"] if verb == "checkpoint" else ["first"])
    assert (place / "one").read_text() == "1", "it is mounted"
    assert (place / "two").exists() == (verb == "checkpoint")
    (place / "three").write_text("3")
    container.unmount()
    assert os.listdir(f"{container.directory}/upper") == ["three"]


@pytest.mark.parametrize("verb", ["checkpoint", "rollback"])
def test_killed_before_it_is_mounted_again(store: Store, verb: str) -> None:
    """Whoever has to do with the container next mounts it; but not after a reboot."""
    container = sh(store, ":")
    place = Path(container.mount())
    container.checkpoint("first")
    (place / "one").write_text("1")

    def die_in_the_middle() -> None:
        child = os.fork()
        if child == 0:
            rootfs.mount = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            with Store(store.paths.root) as own:
                getattr(own.containers.get(container.id), verb)("first" if verb == "rollback" else None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert not rootfs.is_mounted(container.rootfs)

    die_in_the_middle()
    container.checkpoint("next")
    assert rootfs.is_mounted(container.rootfs) and (place / "one").exists() == (verb == "checkpoint")
    die_in_the_middle()
    mark = Path(container.directory, "unmounted")
    mark.unlink()
    mark.symlink_to("another boot")
    container.checkpoint("last")
    assert not rootfs.is_mounted(container.rootfs) and not mark.is_symlink()
    container.mount()
    die_in_the_middle()
    container.unmount()
    assert not rootfs.is_mounted(container.rootfs) and not mark.is_symlink()
    with Store(store.paths.root):  # which removes what else they have left
        pass


def test_an_open_stack(store: Store) -> None:
    container = sh(store, ":")
    container.checkpoint("first")
    with container.stack() as stack:
        for act in (container.checkpoint, lambda: container.rollback("first")):
            with pytest.raises(ConflictError, match="open for writing"):
                act()
        stack.open("/x", "w").close()
    with container.stack(read_only=True) as stack:
        container.checkpoint()
        container.rollback("first")
        assert stack.exists("/x"), "it shows what it was opened on"
    with container.stack(read_only=True) as stack:
        assert not stack.exists("/x")


def test_block_level_files_are_settled(store: Store) -> None:
    container = sh(store, "wc -c </bin/sh")
    with container.stack() as stack:
        path = stack.realpath("/bin/sh")
        size = stack.stat(path).st_size
    script = """if True:
        import os, sys, lazarus
        with lazarus.Store(sys.argv[1]) as store:
            stack = store.containers.get(sys.argv[2]).stack(rung="blocks")
            with stack.open(sys.argv[3], "ab") as file:
                file.write(b"tail")
            os._exit(0)
    """
    import sys

    command = [sys.executable, "-c", script, store.paths.root, container.id, os.fsdecode(path)]
    subprocess.run(command, check=True)
    container.checkpoint()
    assert start(container) == (0, f"{size + 4}\n")


def test_the_root_directory(store: Store) -> None:
    container = sh(store, "ls -ld / | (read mode rest; echo $mode)")
    with container.stack() as stack:
        stack.chmod("/", 0o711)
        stack.setxattr("/", "user.mark", b"1")
    container.checkpoint("first")
    with container.stack() as stack:
        assert stack.getxattr("/", "user.mark") == b"1" and stack.listxattr("/") == [b"user.mark"]
        stack.chmod("/", 0o700)
    assert start(container) == (0, "drwx------\n")
    container.rollback("first")
    assert start(container) == (0, "drwx--x--x\n")


def test_a_running_one(store: Store) -> None:
    """Its processes are frozen while its files are copied: two counters that one process writes are never apart."""
    script = "i=0; while :; do i=$((i+1)); echo $i >/one; echo $i >/two; done"
    container = sh(store, script)
    container.start()
    until(lambda: execute(container, "cat", "/two")[1])
    made = [container.checkpoint() for _ in range(5)]
    assert [one.parent for one in made] == [None, *(one.key for one in made[:-1])]
    with pytest.raises(ConflictError, match="is running"):
        container.rollback("1")
    before = execute(container, "cat", "/one")[1]
    until(lambda: execute(container, "cat", "/one")[1] not in ("", before))
    container.stop(0)
    for one in made:
        upper = Path(store.paths.checkpoint(one.key), "upper")
        first, second = ((upper / name).read_text() for name in ("one", "two"))
        assert first == second or second == "" or first == "" or int(first) - int(second) in (0, 1)
    container.rollback("3")
    with container.stack(read_only=True) as stack:
        assert stack.open("/one").read() == Path(store.paths.checkpoint(made[2].key), "upper/one").read_text()


def test_removed_with_the_container(store: Store) -> None:
    container = sh(store, ":")
    container.checkpoint("kept")
    write(container, x="1")
    container.checkpoint()
    container.checkpoint()
    with pytest.raises(
        ConflictError, match=f"checkpoint {container.name}@kept: checkpoint {container.name}@1 lies on it"
    ):
        container.remove_checkpoint("kept")
    with pytest.raises(NotFoundError, match="of its own"):
        container.remove_checkpoint("none")
    container.rollback("1")
    container.remove_checkpoint("2")
    assert names(container) == ["kept", "1"]
    assert store.system_df()["checkpoints"]["count"] == 2
    container.remove()
    assert os.listdir(store.paths.checkpoints) == [] == os.listdir(store.paths.trash)


def test_prune(store: Store) -> None:
    container = sh(store, ":")
    write(container, x="1" * 100_000)
    container.checkpoint()
    dry = store.prune(containers=True, dry_run=True)
    assert names(container) == ["1"]
    assert store.prune(containers=True).bytes == dry.bytes > 100_000
    assert os.listdir(store.paths.checkpoints) == []


def test_one_that_is_gone_is_named(store: Store) -> None:
    container = sh(store, ":")
    container.checkpoint("lost")
    write(container, x="1")
    container.checkpoint("upon")
    assert list(store.check()) == []
    place = store.paths.checkpoint(f"{container.id}/lost")
    os.rename(place, f"{place}.away")
    (problem,) = store.check(repair=True)
    assert (problem.kind, problem.name, problem.repaired) == ("checkpoint", f"{container.name}@upon", False)
    assert problem.text == (
        f"checkpoint {container.name}@upon: checkpoint {container.id[:12]}@lost, which its files lie on, is gone"
    )
    for act in (container.start, container.diff, container.stack, container.mount, container.commit):
        with pytest.raises(CorruptError, match=f"{container.id[:12]}@lost, which its files lie on, is gone"):
            act()
    container.remove()


def test_one_that_was_killed_while_it_was_made(store: Store) -> None:
    """Its row is there, and its directory, but not all in it."""
    container = sh(store, "echo x > /x")
    for name in ("upper", "work", "merged"):
        os.rmdir(f"{container.directory}/{name}")
    for act in (container.checkpoint, container.mount, container.checkpoints, container.stack):
        with pytest.raises(CorruptError, match=f"container {container.id[:12]}: .*/upper is not there"):
            act()
    assert start(container) == (0, "")
    container.checkpoint()
    os.rmdir(f"{container.directory}/upper")
    container.remove()


def test_too_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    container = sh(store, "cat /file")
    for number in range(40):
        write(container, file=f"{number}\n")
        container.checkpoint()
    assert start(container) == (0, "39\n")
    monkeypatch.setattr(chain, "MAX_LENGTH", 40)
    with pytest.raises(LimitError, match="40 checkpoints"):
        container.checkpoint()
    with pytest.raises(LimitError, match="40 checkpoints"):
        write(container, file="more\n")
        container.fork()


def test_too_many_below_one_that_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of it lies on what it lies on; what lies on that checkpoint is one deeper."""
    monkeypatch.setattr(chain, "MAX_LENGTH", 2)
    container = sh(store, "sleep 60", name="c")
    for number in range(2):
        write(container, file=f"{number}\n")
        container.checkpoint()
    container.start()
    execute(container, "touch", "/more")
    taken = container.checkpoint("deep")
    for act in (container.fork, lambda: container.fork(checkpoint=taken)):
        with pytest.raises(LimitError, match="container c: its files lie on 2 checkpoints"):
            act()
    assert [one.name for one in container.checkpoints()] == ["1", "2", "deep"]
    container.kill()
    until(lambda: container.status != "running")
    with pytest.raises(LimitError, match="2 checkpoints"):
        container.rollback("deep")
    container.rollback("2")
    (fork,) = container.fork(checkpoint="1")
    assert [change.path for change in fork.diff()] == [b"/file"]


def test_no_thread_for_what_comes_after(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is done before the call returns."""
    container = sh(store, ":")
    write(container, file="1\n")
    container.mount()
    open_before = descriptors()

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(unmounted, "start_new_thread", refuse)
    container.checkpoint("one")
    Path(container.rootfs, "file").write_text("2\n")
    container.rollback("one")
    assert Path(container.rootfs, "file").read_text() == "1\n"
    assert descriptors() == open_before and os.listdir(store.paths.trash) == []
    container.unmount()


def test_the_kernel_takes_as_many_as_there_may_be(store: Store) -> None:
    container = sh(store, "cat /file")
    write(container, file="deep\n")
    for _ in range(chain.MAX_LENGTH):
        container.checkpoint()
    assert start(container) == (0, "deep\n")


def test_sync(store: Store) -> None:
    container = sh(store, ":")
    write(container, x="1")
    assert container.checkpoint(sync=True).name == "1"


def test_a_user_without_rights(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from lazarus.errors import UnsupportedError

    container = sh(store, ":")

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(UnsupportedError, match="need root"):
        container.checkpoint()
    monkeypatch.undo()
    assert names(container) == [] and os.listdir(store.paths.checkpoint(container.id)) == []


def test_removed_containers(store: Store) -> None:
    container = sh(store, ":")
    container.remove()
    for act in (container.checkpoint, container.checkpoints, lambda: container.rollback("x")):
        with pytest.raises(NotFoundError, match="has been removed"):
            act()


def test_the_image_stays(store: Store) -> None:
    assert run(store, ":")[0] == 0
    container = sh(store, ":")
    container.checkpoint()
    with pytest.raises(ConflictError, match=r"container .* uses it"):
        store.images.remove(IMAGE)


def test_state_of_a_damaged_note(store: Store) -> None:
    container = sh(store, ":")
    container.checkpoint("a")
    Path(store.paths.checkpoint(f"{container.id}/a"), "checkpoint.json").write_text("{")
    assert [one.name for one in container.checkpoints()] == ["a"]
    assert json.dumps(container.inspect()["Checkpoint"])
