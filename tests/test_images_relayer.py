"""squash, split, drop, reorder, rebase and diff of whole images: trees, history, digests, and what they refuse."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import images_made as made
import pytest
from store_helpers import assert_whole, object_names

import lazarus
from lazarus import errors
from lazarus.images import Image

BIG = [os.urandom(9000) for _ in range(4)]
BASE = made.layer({"etc": None, "etc/motd": b"hello\n", "usr/lib/one": BIG[0], "usr/lib/two": BIG[1]})
TOOLS = made.layer({"usr/bin/tool": BIG[2], "usr/share/doc/tool": b"words\n", "usr/lib/.wh.two": b""})
APP = made.layer({"srv/app": BIG[3], "etc/motd": b"app\n", "usr/share/doc/app": b"more words\n"})
HISTORY = [
    {"created": "2024-01-01T00:00:00Z", "created_by": "FROM base"},
    {"created_by": "ENV A=1", "empty_layer": True},
    {"created_by": "RUN tools"},
    {"created_by": "COPY app"},
    {"created_by": "CMD true", "empty_layer": True},
]


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[lazarus.Store]:
    with lazarus.Store(tmp_path / "store") as store:
        yield store


def load(store: lazarus.Store, tmp_path: Path, tars: list[bytes], name: str, **config: Any) -> Image:
    """An image of gzip layers, with members of its config."""
    source = made.Made()
    source.image(tars, name, config={"history": [], **config})
    (image,) = store.images.load(source.archive(tmp_path / "in.tar"))
    return image


@pytest.fixture
def image(store: lazarus.Store, tmp_path: Path) -> Image:
    return load(store, tmp_path, [BASE, TOOLS, APP], "app:1", history=HISTORY)


def steps(image: Image) -> list[tuple[str, bool]]:
    return [(entry.created_by, entry.empty_layer) for entry in image.config.history]


def tar_names(image: Image, number: int) -> list[str]:
    fd = os.memfd_create("tar")
    with open(fd, "w+b") as file:
        image.layers[number].write_tar(fd)
        file.seek(0)
        with tarfile.open(fileobj=io.BytesIO(file.read())) as tar:
            return tar.getnames()


def same(store: lazarus.Store, left: Image, right: Image) -> bool:
    return list(store.images.diff(left, right)) == []


def test_squash(store: lazarus.Store, image: Image) -> None:
    objects = object_names(store)
    new = store.images.squash(image, "app:flat")
    assert len(new.diff_ids) == 1 and new.names == ("app:flat",) and same(store, image, new)
    assert object_names(store) == objects
    assert tar_names(new, 0) == [
        "etc",
        "etc/motd",
        "srv",
        "srv/app",
        "usr",
        "usr/bin",
        "usr/bin/tool",
        "usr/lib",
        "usr/lib/one",
        "usr/share",
        "usr/share/doc",
        "usr/share/doc/app",
        "usr/share/doc/tool",
    ]
    assert steps(new) == [
        *((step, True) for step in ("FROM base", "ENV A=1", "RUN tools", "COPY app", "CMD true")),
        ("lazarus image squash --from 1 --to 3", False),
    ]
    assert new.config.config == image.config.config and new.config.created == "2023-11-14T22:13:20Z"
    assert image.names == ("app:1",) and len(image.diff_ids) == 3  # the old one stays
    assert_whole(store)
    # the same input, the same digest; the squash of a squash is itself
    assert store.images.squash(image).digest == new.digest
    assert store.images.squash(new).diff_ids == new.diff_ids


def test_squash_of_some_keeps_what_hides_the_others(store: lazarus.Store, image: Image) -> None:
    new = store.images.squash(image, first=2)
    assert same(store, image, new) and new.diff_ids[0] == image.diff_ids[0]
    assert "usr/lib/.wh.two" in tar_names(new, 1)
    assert new.manifest.layers[0].digest == image.manifest.layers[0].digest  # the compressed blob as it came
    assert steps(new)[:2] == [("FROM base", False), ("ENV A=1", True)]
    assert [empty for _, empty in steps(new)].count(False) == 2
    lower = store.images.squash(image, last=2)
    assert same(store, image, lower) and lower.diff_ids[1] == image.diff_ids[2]
    assert steps(lower)[-2:] == [("COPY app", False), ("CMD true", True)]
    assert "usr/lib/.wh.two" not in tar_names(lower, 0)


def test_progress_is_told_and_can_stop(store: lazarus.Store, tmp_path: Path) -> None:
    image = load(store, tmp_path, [made.layer({str(n): os.urandom(9 << 20) for n in range(2)})], "big")
    events: list[Any] = []
    store.images.squash(image, progress=events.append)
    assert events and events[-1].done <= events[-1].total and events[0].action == "hash"

    def stop(event: object) -> None:
        raise KeyboardInterrupt

    count = len(store.images.list())
    with pytest.raises(KeyboardInterrupt):
        store.images.squash(image, progress=stop)
    assert len(store.images.list()) == count and os.listdir(store.paths.staging) == []


def test_split(store: lazarus.Store, image: Image) -> None:
    objects = object_names(store)
    new = store.images.split(image, 2, ["/usr/share/**"], "app:split")
    assert same(store, image, new) and len(new.diff_ids) == 4
    assert tar_names(new, 1) == ["usr/bin", "usr/bin/tool", "usr/lib/.wh.two"]  # nothing below has a usr/bin
    assert tar_names(new, 2) == ["usr", "usr/share", "usr/share/doc", "usr/share/doc/tool"]
    assert steps(new)[2:5] == [
        ("RUN tools", False),
        ("lazarus image split 2 --path /usr/share/**", False),
        ("COPY app", False),
    ]
    assert object_names(store) == objects
    assert store.images.split(image, image.diff_ids[1][:20], [b"usr/share/**"]).diff_ids == new.diff_ids
    assert_whole(store)


def test_drop(store: lazarus.Store, image: Image) -> None:
    new = store.images.drop(image, [2], "app:less")
    assert new.diff_ids == (image.diff_ids[0], image.diff_ids[2])
    assert new.manifest.layers == (image.manifest.layers[0], image.manifest.layers[2])
    assert {(c.change, c.path) for c in store.images.diff(image, new)} == {
        ("D", b"/usr/bin"),
        ("D", b"/usr/bin/tool"),
        ("D", b"/usr/share/doc/tool"),
        ("A", b"/usr/lib/two"),
    }
    assert steps(new) == [
        ("FROM base", False),
        ("ENV A=1", True),
        ("COPY app", False),
        ("CMD true", True),
        ("lazarus image drop 2", True),
    ]
    # what a layer deletes may be gone already
    assert same(store, store.images.drop(image, [1, 3]), store.images.squash(store.images.drop(image, [1, 3])))


def test_reorder(store: lazarus.Store, image: Image, tmp_path: Path) -> None:
    new = store.images.reorder(image, [1, 3, 2], "app:other")
    assert same(store, image, new) and new.diff_ids == tuple(image.diff_ids[n] for n in (0, 2, 1))
    assert steps(new) == [
        ("FROM base", False),
        ("ENV A=1", True),
        ("COPY app", False),
        ("CMD true", True),
        ("RUN tools", False),
        ("lazarus image reorder 1 3 2", True),
    ]
    with pytest.raises(errors.ConflictError, match="order 2 1 3, /usr/lib/two would be there"):
        store.images.reorder(image, [2, 1, 3])
    with pytest.raises(errors.ConflictError, match="order 3 1 2, /etc/motd would have another content"):
        store.images.reorder(image, [3, 1, 2])
    forced = store.images.reorder(image, [2, 1, 3], force=True)
    assert [change.path for change in store.images.diff(image, forced)] == [b"/usr/lib/two"]


def test_rebase(store: lazarus.Store, image: Image, tmp_path: Path) -> None:
    old = load(store, tmp_path, [BASE], "base:1")
    other = made.layer({"etc": None, "etc/motd": b"newer\n", "etc/release": b"2\n", "usr/lib/two": BIG[1]})
    history = [{"created_by": "FROM newer"}, {"created_by": "ENV B", "empty_layer": True}]
    onto = load(store, tmp_path, [other], "base:2", config={"Cmd": ["false"]}, history=history)
    new = store.images.rebase(image, "base:2", "app:2", base=old)
    assert new.diff_ids == (onto.diff_ids[0], *image.diff_ids[1:])
    assert new.manifest.layers == (onto.manifest.layers[0], *image.manifest.layers[1:])
    assert new.config.config == image.config.config
    assert steps(new) == [
        ("FROM newer", False),
        ("ENV B", True),
        ("RUN tools", False),
        ("COPY app", False),
        ("CMD true", True),
        (f"lazarus image rebase --onto {onto.id}", True),
    ]
    assert store.images.rebase(image, onto).digest == new.digest  # the only image that it can have been built on
    # ... until there is another
    load(store, tmp_path, [BASE, TOOLS], "tools:1")
    with pytest.raises(errors.ConflictError, match=r"built on several images of this store \(base:1, tools:1\)"):
        store.images.rebase(image, onto)
    with pytest.raises(errors.ConflictError, match=r"is not built on .*: layer 1 is another"):
        store.images.rebase(image, onto, base=onto)
    with pytest.raises(errors.NotFoundError, match="its old base is not known; name it"):
        store.images.rebase(old, onto)
    arm = load(store, tmp_path, [other], "base:arm", architecture="arm64")
    with pytest.raises(errors.ConflictError, match=r"for linux/amd64, the new base .* for linux/arm64"):
        store.images.rebase(image, arm, base=old)


def test_rebase_on_what_a_label_names(store: lazarus.Store, tmp_path: Path) -> None:
    load(store, tmp_path, [BASE], "base:1")
    tools = load(store, tmp_path, [BASE, TOOLS], "tools:1")
    labels = {"org.opencontainers.image.base.digest": tools.digest}
    image = load(store, tmp_path, [BASE, TOOLS, APP], "app:1", config={"Labels": labels})
    onto = load(store, tmp_path, [TOOLS], "base:2")
    assert store.images.rebase(image, onto).diff_ids == (onto.diff_ids[0], image.diff_ids[2])


def test_a_history_that_fits_no_layers(store: lazarus.Store, tmp_path: Path) -> None:
    for history in ([], [{"created_by": "one"}]):
        image = load(store, tmp_path, [BASE, TOOLS, APP], "app:1", history=history)
        new = store.images.squash(image, first=2)
        assert steps(new) == [("", False), ("lazarus image squash --from 2 --to 3", False)]
        assert steps(store.images.drop(image, [1])) == [("", False), ("", False), ("lazarus image drop 1", True)]


def test_a_layer_that_is_there_twice(store: lazarus.Store, tmp_path: Path) -> None:
    image = load(store, tmp_path, [BASE, TOOLS, BASE], "app:1")
    with pytest.raises(errors.ConflictError, match="fits layers 1, 3"):
        store.images.drop(image, [image.diff_ids[0]])
    assert store.images.drop(image, [3]).diff_ids == image.diff_ids[:2]
    assert same(store, image, store.images.squash(image))


def test_what_is_refused(store: lazarus.Store, image: Image, tmp_path: Path) -> None:
    before = store.images.list()
    for first, last in ((0, 1), (2, 1), (1, 4), (4, None)):
        with pytest.raises(errors.FormatError, match="no such range"):
            store.images.squash(image, first=first, last=last)
    for layer in (0, 4, f"sha256:{0:064}", "", "x"):
        with pytest.raises(errors.NotFoundError, match="layer"):
            store.images.drop(image, [layer])
    with pytest.raises(errors.FormatError, match="without its 3 layers there is nothing left"):
        store.images.drop(image, [1, 2, 3])
    for order in ([1, 2], [1, 2, 2], [1, 2, 3, 3]):
        with pytest.raises(errors.FormatError, match="names each of its 3 layers once"):
            store.images.reorder(image, order)
    with pytest.raises(errors.FormatError, match="no entry of 8 matches --path nothing"):
        store.images.split(image, 2, ["nothing"])
    with pytest.raises(errors.FormatError, match=r"every entry of 8 matches --path \*"):
        store.images.split(image, 2, ["*"])
    with pytest.raises(errors.FormatError):
        store.images.squash(image, "not a NAME")
    assert [i.digest for i in store.images.list()] == [i.digest for i in before]
    assert os.listdir(store.paths.staging) == []


def test_a_damaged_object(store: lazarus.Store, image: Image) -> None:
    path = Path(store.paths.object(made_digest(BIG[2])))
    path.chmod(0o600)
    path.write_bytes(bytes(9000))
    with pytest.raises(errors.CorruptError, match="/usr/bin/tool: the stored content is sha256:"):
        store.images.squash(image)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        store.images.squash(image)
    assert len(store.images.list()) == 1 and os.listdir(store.paths.staging) == []


def made_digest(data: bytes) -> lazarus.terms.Digest:
    return lazarus.terms.Digest(made.sha256(data))


def test_the_old_image_may_go(store: lazarus.Store, image: Image) -> None:
    new = store.images.squash(image, "app:flat")
    store.images.remove("app:1")
    assert_whole(store)
    assert len(object_names(store)) == 3  # two is hidden, and gone with the layers that had it
    assert tar_names(new, 0)


@pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci")
@pytest.mark.root
def test_umoci_unpacks_the_same_tree(store: lazarus.Store, image: Image, tmp_path: Path) -> None:
    from conformance.trees import differences, read_tree

    operations = {
        "old": image,
        "flat": store.images.squash(image),
        "two": store.images.squash(image, first=2),
        "split": store.images.split(image, 2, ["usr/share"]),
        "order": store.images.reorder(image, [1, 3, 2]),
    }
    trees = {}
    for name, one in operations.items():
        store.images.tag(one, f"x:{name}")
        store.images.save([f"x:{name}"], tmp_path / name, format="oci-dir")
        layout = json.loads((tmp_path / name / "index.json").read_text())
        layout["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": name}
        (tmp_path / name / "index.json").write_text(json.dumps(layout))
        bundle = tmp_path / f"bundle-{name}"
        subprocess.run(["umoci", "unpack", "--image", f"{tmp_path / name}:{name}", bundle], check=True)
        trees[name] = read_tree(bundle / "rootfs", times=False)
    for name, tree in trees.items():
        assert differences(trees["old"], tree) == [], name


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
def test_skopeo_copies_what_was_made(store: lazarus.Store, image: Image, tmp_path: Path) -> None:
    for number, new in enumerate((store.images.squash(image), store.images.split(image, 1, ["etc"]))):
        store.images.tag(new, "made:skopeo")
        store.images.save(["made:skopeo"], tmp_path / f"{number}.tar")
        source, target = f"oci-archive:{tmp_path / f'{number}.tar'}", f"dir:{tmp_path / str(number)}"
        inspected = subprocess.run(["skopeo", "inspect", source], check=True, capture_output=True)
        assert json.loads(inspected.stdout)["Digest"] == new.digest
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", source, target], check=True)


@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
@pytest.mark.root
def test_podman_loads_what_was_made(store: lazarus.Store, image: Image, tmp_path: Path) -> None:
    from conformance.test_peers_see_the_same_tree import _podman_tree

    def tree(one: Image, name: str) -> dict[str, Any]:
        store.images.tag(one, f"x:{name}")
        store.images.save([f"x:{name}"], tmp_path / name)
        with tempfile.TemporaryDirectory(prefix="lz-") as home:
            return {path: node for path, node in _podman_tree(home, tmp_path / name).items() if path != "."}

    whole = store.images.squash(image)  # lists every directory, so that podman makes none by itself
    old = tree(whole, "flat")
    assert old.keys() >= {"usr/lib/one", "etc/motd", "srv/app"} and "usr/lib/two" not in old
    assert tree(store.images.split(whole, 1, ["usr/share", "**/motd"]), "split") == old
