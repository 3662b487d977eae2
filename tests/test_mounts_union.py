"""Any host directories as one: what is shown, where changes go, and a clear line for what cannot go together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conformance.overlay import in_mount_namespace
from conformance.overlay import mount as raw_mount

from lazarus.errors import ConflictError, LimitError, NotFoundError
from lazarus.mounts import detach
from lazarus.mounts.union import MAX_LOWERS, describe, dissolve, union
from lazarus.terms import Mount


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("a", "b", "c", "upper", "work", "target"):
        (tmp_path / name).mkdir()
    for name in "abc":
        (tmp_path / name / "shared").write_text(name)
        (tmp_path / name / f"only {name}").write_text(name)
    return tmp_path


def _lowers(place: Path) -> list[str]:
    return [str(place / name) for name in "abc"]


def test_a_value_without_root(place: Path) -> None:
    assert describe(_lowers(place), None, None) == Mount(
        lowers=tuple(_lowers(place)), metacopy=False, redirect_dir=False, read_only=True
    )
    upper, work = str(place / "upper"), str(place / "work")
    mount = describe(_lowers(place), upper, work)
    assert (mount.upper, mount.work, mount.metacopy, mount.read_only) == (upper, work, False, False)


@pytest.mark.root
def test_the_first_is_topmost_and_changes_go_to_the_upper(place: Path) -> None:
    def run() -> None:
        target = place / "target"
        union(_lowers(place), target, upper=place / "upper", work=place / "work")
        assert sorted(os.listdir(target)) == ["only a", "only b", "only c", "shared"]
        assert (target / "shared").read_text() == "a"
        (target / "shared").write_text("changed")
        os.chmod(target / "only b", 0o600)
        (target / "only c").unlink()
        detach(str(target))
        union(_lowers(place), target, upper=place / "upper", work=place / "work")  # the work directory is used again
        assert sorted(os.listdir(target)) == ["only a", "only b", "shared"]
        detach(str(target))

    in_mount_namespace(run)
    assert (place / "upper/shared").read_text() == "changed" and (place / "a/shared").read_text() == "a"
    assert (place / "upper/only b").read_text() == "b"  # whole, not only its attributes


@pytest.mark.root
@pytest.mark.parametrize("count", [1, 3])
def test_without_an_upper_it_is_read_only(place: Path, count: int) -> None:
    def run() -> None:
        target = place / "target"
        union(_lowers(place)[:count], target)
        assert (target / "shared").read_text() == "a"
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").write_text("")
        dissolve(target)
        with pytest.raises(NotFoundError, match="nothing is mounted there"):
            dissolve(target)
        raw_mount("tmpfs", "none", str(target))
        with pytest.raises(NotFoundError, match="tmpfs, not a union, is mounted there"):
            dissolve(target)

    in_mount_namespace(run)
    (place / "a/new").write_text("")  # the directory itself is as it was


@pytest.mark.root
@pytest.mark.parametrize(
    "name", ["colon:comma,", "back\\slash \"quote'", "x" * 255, "new\nline", os.fsdecode(b"\xff\xfe")]
)
def test_names_that_options_could_not_carry(place: Path, name: str) -> None:
    def run() -> list[str]:
        for role in ("lower", "upper", "work", "target"):
            (place / role / name).mkdir(parents=True, exist_ok=True)
        (place / "lower" / name / "file").write_text("")
        target = place / "target" / name
        union([place / "lower" / name, place / "a"], target, upper=place / "upper" / name, work=place / "work" / name)
        return sorted(os.listdir(target))

    assert in_mount_namespace(run) == ["file", "only a", "shared"]


@pytest.mark.root
def test_as_many_as_the_kernel_takes(place: Path) -> None:
    many = [place / f"many/{number}" for number in range(MAX_LOWERS + 1)]
    for directory in many:
        directory.mkdir(parents=True)
        (directory / directory.name).touch()

    def run() -> int:
        union(many[:MAX_LOWERS], place / "target", upper=place / "upper", work=place / "work")
        return len(os.listdir(place / "target"))

    assert in_mount_namespace(run) == MAX_LOWERS
    with pytest.raises(LimitError, match="501 lower directories, the kernel takes 500"):
        describe([str(directory) for directory in many], None, None)


def test_one_line_for_each_mistake(place: Path) -> None:
    lowers, upper, work = _lowers(place), str(place / "upper"), str(place / "work")
    (place / "file").touch()
    (place / "a/inner").mkdir()
    (place / "link").symlink_to("a/inner")
    (place / "full").mkdir()
    (place / "full/x").touch()
    cases: list[tuple[type[Exception], str, list[str], str | None, str | None]] = [
        (NotFoundError, "at least one lower", [], None, None),
        (NotFoundError, "lower .*/none: does not exist", [*lowers, f"{place}/none"], upper, work),
        (NotFoundError, "lower .*/file: not a directory", [f"{place}/file"], upper, work),
        (NotFoundError, "work .*/none: does not exist", lowers, upper, f"{place}/none"),
        (ConflictError, "upper needs work", lowers, upper, None),
        (ConflictError, "work needs upper", lowers, None, work),
        (ConflictError, "upper .* and work .* are the same directory", lowers, upper, upper),
        (ConflictError, "upper .* and work .*/upper/w overlap", lowers, upper, f"{upper}/w"),
        (ConflictError, "lower .*/a and upper .*/a/inner overlap", lowers, f"{place}/link", work),
        (ConflictError, "lower .*/a and lower .*/a/inner overlap", [*lowers, f"{place}/link"], upper, work),
        (ConflictError, "lower .*/a and lower .*/a are the same directory", [*lowers, lowers[0] + "/"], None, None),
        (ConflictError, "work directory .*/full is not empty", lowers, upper, f"{place}/full"),
        (ConflictError, "lower / and upper .* overlap", ["/"], upper, work),
    ]
    (place / "upper/w").mkdir()
    for kind, line, *arguments in cases:
        with pytest.raises(kind, match=line):
            describe(*arguments)  # type: ignore[arg-type]


@pytest.mark.root
def test_upper_and_work_on_different_file_systems(place: Path) -> None:
    def run() -> None:
        raw_mount("tmpfs", "none", str(place / "work"))
        with pytest.raises(ConflictError, match="are on different file systems"):
            union(_lowers(place), place / "target", upper=place / "upper", work=place / "work")

    in_mount_namespace(run)


@pytest.mark.root
def test_a_missing_target(place: Path) -> None:
    with pytest.raises(NotFoundError, match=r"target .*/none: does not exist"):
        union(_lowers(place), place / "none")
