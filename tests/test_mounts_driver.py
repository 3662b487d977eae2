"""Drivers without root: describing is pure, and a driver that cannot run names the probe that failed."""

from __future__ import annotations

import os

import pytest
from conformance.overlay import in_mount_namespace

from lazarus._native import mount as native
from lazarus.errors import UnsupportedError
from lazarus.mounts import probe
from lazarus.mounts.driver import Driver, choose
from lazarus.mounts.kernel import KernelDriver
from lazarus.terms import Mount


def test_describing_touches_nothing() -> None:
    driver: Driver = KernelDriver()
    mount = driver.describe("/no/image", "/no/objects", upper="/no/upper", work="/no/work", lowers=("/no/init",))
    assert mount == Mount(
        image="/no/image", lowers=("/no/init",), data=("/no/objects",), upper="/no/upper", work="/no/work"
    )
    assert mount.metacopy and mount.redirect_dir and not mount.volatile and not mount.read_only
    assert driver.describe("/i", "/o", volatile=True).volatile


def test_an_unknown_name() -> None:
    with pytest.raises(UnsupportedError, match=r"mount driver 'aufs': unknown \(known: kernel\)"):
        choose("aufs")


@pytest.mark.root
def test_a_choice_says_why() -> None:
    assert choose("auto").driver.name == "kernel" and "probes pass" in choose("auto").why
    assert choose("kernel").why == "mount driver kernel: asked for by name"


@pytest.mark.root
@pytest.mark.parametrize("name", ["auto", "kernel"])
def test_without_privileges_the_probe_is_named(name: str) -> None:
    def run() -> str:
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(UnsupportedError) as caught:
            choose(name)
        return str(caught.value)

    assert in_mount_namespace(run) == "mount driver kernel: probe 'root': mounting needs CAP_SYS_ADMIN, as root has it"


@pytest.mark.root
def test_the_kernel_is_asked() -> None:
    assert native.supports("overlay") and native.supports("overlay", "lowerdir+")
    assert not native.supports("overlay", "no_such_option") and not native.supports("no_such_file_system")
    with pytest.raises(UnsupportedError, match=r"probe 'no_such_file_system': kernel .* does not have"):
        probe.file_system("no_such_file_system")


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.18.44-fc", (6, 18)), ("5.10.0-8-amd64", (5, 10)), ("7.0-rc1", (7, 0)), ("4.4+", (4, 4))],
)
def test_kernel_releases(release: str, version: tuple[int, int]) -> None:
    assert probe.kernel_version(release) == version
    assert probe.kernel_version() >= (4, 0)
