"""Which devices a container may open: docker's few, whatever nodes its files have and whoever made them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from container_helpers import execute, logged, run, sh

from lazarus.runtime import crun, devices
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root

LOOP = os.makedev(7, 0)  # a block device that every kernel lets root open, even one that has nothing behind it
OPEN = "for node in /dev/loop0 /node; do dd if=$node of=/dev/null count=0 2>/dev/null && echo opened $node; done; true"
MAKE = "mknod /dev/loop0 b 7 0 && mknod /node b 7 0; "


def test_no_disk_can_be_opened(store: Store) -> None:
    if not crun.Runtime().rules_devices:
        pytest.skip("no cgroups for devices here")
    assert run(store, f"{MAKE} ls /node /dev/loop0; {OPEN}") == (0, "/dev/loop0\n/node\n")
    usual = "echo x >/dev/null && dd if=/dev/zero bs=1 count=1 2>/dev/null | wc -c"
    assert run(store, usual) == (0, "1\n")
    container = sh(store, "sleep 60", name="c")
    os.mknod(f"{container.directory}/upper/node", stat.S_IFBLK | 0o666, LOOP)
    container.start()
    assert execute(container, "sh", "-c", f"mknod /dev/loop0 b 7 0; {OPEN}") == (0, "")
    container.remove(force=True)


def test_without_rules_no_node_can_be_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crun, "device_cgroup", lambda _root: None)
    if crun.Runtime().rules_devices:
        pytest.skip("the runtime makes cgroups for devices here")
    script = "mknod /node b 7 0 2>/dev/null || echo refused; mknod /fifo p"
    container = sh(store, f"{script} && sleep 60", name="c")
    container.start()
    assert execute(container, "sh", "-c", f"{script} 2>/dev/null") == (1, "refused\n")  # the fifo is there
    container.stop(0)
    assert logged(container) == "refused\n"


@pytest.mark.skipif(not os.path.exists("/sys/fs/cgroup/devices/devices.list"), reason="no version 1 cgroups of devices")
def test_the_cgroup_is_made_once_and_whole() -> None:
    members = devices.device_cgroup("/sys/fs/cgroup")
    assert members is not None and members == devices.device_cgroup("/sys/fs/cgroup")
    rules = Path(members).with_name("devices.list").read_text().splitlines()
    assert sorted(rules) == sorted(devices.RULES)
    assert [name for name in os.listdir("/sys/fs/cgroup/devices") if name.startswith("lazarus.")] == []


def test_no_cgroup_for_devices(tmp_path: Path) -> None:
    assert devices.device_cgroup(str(tmp_path)) is None
    (tmp_path / "devices").mkdir()
    assert devices.device_cgroup(str(tmp_path)) is None
    (tmp_path / "devices/devices.list").touch()  # it is a plain directory, where no rules can be written
    assert devices.device_cgroup(str(tmp_path)) is None
    assert os.listdir(tmp_path / "devices") == ["devices.list"]
