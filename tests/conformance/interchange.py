"""An upper is one format, whoever wrote it: what a stack left there, the kernel, another stack, diff and commit read
alike, and a stack reads what the kernel left."""

from __future__ import annotations

from pathlib import Path

from lazarus._native import pack
from lazarus.terms import Change

from .oci_apply import apply_layer
from .scenario import copy_tree
from .side_by_side import Ground, Kernel, Stacked, pack_upper, sources_of, without_lower_links
from .trees import Tree, differences, read_tree


def check_upper(ground: Ground, subject: Stacked, place: Path) -> None:
    """The upper of a stack; it is closed then. `place` is new. With marks in user.overlay.* it is none for the kernel,
    which then knows no redirects."""
    user = subject.stack.user_xattr
    place.mkdir()
    shown = subject.read()
    subject.stack.settle()
    subject.reopen()
    assert differences(subject.read(), shown) == []
    changes = list(subject.stack.diff())
    subject.close()
    compare_changes(changes, pack.diff(subject.upper, str(ground.index), user_xattr=user))
    for image in () if user else (False, True):
        kernel = Kernel(ground, place / f"kernel-{image}", upper=subject.upper, image=image)
        try:
            assert differences(kernel.read_links(), shown) == []
        finally:
            kernel.close()
    check_commit(ground, subject.upper, shown, place, user_xattr=user)


def compare_changes(found: list[Change], by_marks: list[Change]) -> None:
    """What a comparison of views finds, and what the upper's marks say against an index."""
    only = [sorted(set(some) - set(others)) for some, others in ((found, by_marks), (by_marks, found))]
    assert found == by_marks, f"by the stack only: {only[0]}; by lz_diff only: {only[1]}"


def check_commit(ground: Ground, upper: Path, shown: Tree, place: Path, *, user_xattr: bool) -> None:
    """The layer that an upper is packed into, applied to the layers' tree, gives what was seen."""
    applied, layer = place / "applied", place / "layer.tar"
    copy_tree(ground.merged, applied)
    with open(layer, "wb") as file:
        pack_upper(upper, ground.layers, ground.index, file.fileno(), user_xattr=user_xattr)
    written = set(apply_layer(str(applied), str(layer)))
    wanted = {
        path: node._replace(links=frozenset(other for other in node.links if (other in written) == (path in written)))
        for path, node in shown.items()
        if node.kind != "socket"
    }
    assert differences(read_tree(str(applied)), wanted) == []


def check_kernels_upper(ground: Ground, upper: Path, shown: Tree, mix: str, place: Path) -> None:
    """What the kernel left: `shown` when it was mounted."""
    subject = Stacked(ground, place, sources_of(ground, mix), upper=upper)
    try:
        assert differences(without_lower_links(subject.read(), upper), shown) == []
        compare_changes(list(subject.stack.diff()), pack.diff(upper, str(ground.index)))
    finally:
        subject.close()
