"""What a mount driver is. Who has read this page can write one.

Words. A *stack* is a merged index and its EROFS metadata image. Its *objects* are the contents of its larger files. An
*upper* is a directory that takes what is written, in overlayfs' own format, and *work* a directory beside it on the
same
file system. A *driver* turns these into a `Mount` value: which layers lie under which, with which options.

Life cycle of a root file system:

    probe()      once: can this kernel do it? Raises `UnsupportedError` that names the probe that failed
    describe()   pure: a `Mount` value; nothing is opened, nothing changes
    attach()     `lazarus.mounts.attach`: the only function that mounts
    ...          the container runs; writes go to the upper
    detach()     the upper keeps what was written; describe() and attach() again show it again

Because describing is pure, a driver is tested without root, and whoever wants to see what would be mounted prints the
value:

    driver = choose("auto")
    mount = driver.describe(stack.image_path, objects, upper=upper, work=work)
    attach(mount, "/run/rootfs")
    ...
    detach("/run/rootfs")

Whatever the driver, the upper has the same format, so a container may be started with one today and another tomorrow.
Where
drivers differ, they say so in `traits`, and the suites assert what is said instead of skipping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from lazarus.errors import UnsupportedError

if TYPE_CHECKING:
    from lazarus.terms import Mount


class Traits(NamedTuple):
    """How a driver differs from a local file system. `needs_root`: mounting takes CAP_SYS_ADMIN. `breaks_hard_links`:
    a name
    that is copied up leaves its group (overlayfs without `index`). `copies_up_whole_files`: the first write to a file
    copies
    all of it, unless the file system reflinks."""

    needs_root: bool
    breaks_hard_links: bool
    copies_up_whole_files: bool


class Driver(Protocol):
    """A way to show a stack with an upper as a root file system."""

    name: str
    traits: Traits

    def probe(self) -> None:
        """Returns when the driver can run here; raises `UnsupportedError` naming the probe that failed."""

    def describe(
        self, image: str, objects: str, *, upper: str | None = None, work: str | None = None, volatile: bool = False
    ) -> Mount:
        """The mount as a value: with `upper` and `work` writable, without them read-only."""


def choose(name: str = "auto") -> Driver:
    """The driver of that name, probed; "auto" is the first that can run. `UnsupportedError` when it, or none, can."""
    from lazarus.mounts.kernel import KernelDriver

    drivers: list[Driver] = [KernelDriver()]
    if name != "auto":
        drivers = [driver for driver in drivers if driver.name == name]
        if not drivers:
            raise UnsupportedError(f"mount driver {name!r}: unknown (known: kernel)")
    reasons = []
    for driver in drivers:
        try:
            driver.probe()
        except UnsupportedError as error:
            reasons.append(f"{driver.name}: {error}")
        else:
            return driver
    raise UnsupportedError("no mount driver can run here: " + "; ".join(reasons))
