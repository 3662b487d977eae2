"""What a mount driver is. Who has read this page can write one.

Words. A *stack* is a merged index and its EROFS metadata image. Its *objects* are the contents of its larger files. An
*upper* is a directory that takes what is written, in overlayfs' own format; *work* is a directory beside it, on the
same file system, that belongs to the mount. A *driver* turns these into a `Mount` value: which layers lie under which,
with which options.

Life cycle of a root file system:

    probe()      once: can this kernel do it? Raises `UnsupportedError` that names the probe that failed
    describe()   pure: a `Mount` value; nothing is opened, nothing changes
    attach()     `lazarus.mounts.attach`: the only function that mounts
    ...          the container runs; writes go to the upper
    detach()     the upper keeps what was written; describe() and attach() show it again

Because describing is pure, a driver is tested without root, and whoever wants to see what would be mounted prints the
value. One use, from the choice to the end:

    driver = choose("auto").driver
    mount = driver.describe(stack.image_path, objects, upper=upper, work=work)
    attach(mount, "/run/rootfs")
    ...
    detach("/run/rootfs")

Whatever the driver, the upper has the same format, so a container may be started with one today and with another
tomorrow. Where drivers differ they say so in `traits`, and the suites assert what is said instead of skipping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from lazarus.errors import UnsupportedError

if TYPE_CHECKING:
    from lazarus.terms import Mount


class Traits(NamedTuple):
    """How a driver differs from a local file system.

    `needs_root`: mounting takes CAP_SYS_ADMIN. `breaks_hard_links`: a name that is copied up leaves its group
    (overlayfs without `index`). `copies_up_whole_files`: the first write to a file copies all of it, unless the file
    system reflinks; a change of attributes alone copies none of it.
    """

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
        self,
        image: str,
        objects: str,
        *,
        upper: str | None = None,
        work: str | None = None,
        lowers: tuple[str, ...] = (),
        volatile: bool = False,
    ) -> Mount:
        """The mount as a value: writable with `upper` and `work`, read-only without them.

        `lowers` are host directories below the image, topmost first."""


class Choice(NamedTuple):
    """The driver that was taken, and why, in words for a person."""

    driver: Driver
    why: str


def choose(name: str = "auto") -> Choice:
    """The driver of that name, probed; "auto" is the first that can run.

    Raises `UnsupportedError` with the failed probe when the one that was asked for cannot run, or none can.
    """
    from lazarus.mounts.kernel import KernelDriver

    known: list[Driver] = [KernelDriver()]
    drivers = [driver for driver in known if name in ("auto", driver.name)]
    if not drivers:
        names = ", ".join(driver.name for driver in known)
        raise UnsupportedError(f"mount driver {name!r}: unknown (known: {names})")
    failed = []
    for driver in drivers:
        try:
            driver.probe()
        except UnsupportedError as error:
            failed.append(f"mount driver {driver.name}: {error}")
            continue
        reason = "asked for by name" if name != "auto" else "the first driver whose probes pass"
        return Choice(driver, "; ".join([*failed, f"mount driver {driver.name}: {reason}"]))
    raise UnsupportedError("; ".join(failed))
