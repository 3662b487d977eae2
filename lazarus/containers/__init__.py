"""Containers: an image's stack under an empty writable layer, and the process that runs in it.

Life of a container
    create      a row, and containers/<id>/{upper,work,merged,bundle}; no fsync: it may vanish in a power cut
    start       the root file system is mounted at `merged`, the process starts; a supervisor stays with it
    exit        the supervisor writes the exit code and unmounts; `upper` keeps what was written
    start       again: the files are still there
    commit      what `upper` holds, and only that, becomes a layer; each checkpoint that it lies on, too
    checkpoint  `upper` is frozen, and an empty one goes on from it (checkpoints.py); rollback goes back to one
    remove      unmounted, row and directory gone; its volumes stay, but those without a name when that is asked for

Volumes are a room of their own (`lazarus.volumes`); what a container mounts of them is in shown.py.

containers/<id>/
    upper, work     overlayfs' own (see csrc/tree/lz_diff.h); upper is empty until the container writes. It says itself
                    which checkpoint it lies on, if any (chain.py)
    init            mount points that the image lacks (/proc, /etc/hosts, ...): the lowest layer of all, made only then.
                    So neither diff nor commit ever sees them
    merged          the mount point
    bundle          config.json, the files that are bound over /etc, the runtime's log
    runtime         the runtime's own notes while the container runs
    log             what it wrote (lazarus/runtime/log.py)
    state.json      see state.py
"""

from __future__ import annotations

from lazarus.containers.container import Container
from lazarus.containers.containers import Containers

__all__ = ["Container", "Containers"]
