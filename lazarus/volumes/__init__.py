"""Volumes: directories that outlive containers and are shared by them.

Life of a volume
    create      a row, and volumes/<name>/data, empty: by `create`, or together with the first container that names it
    fresh       until a container mounts it, or something is copied into it: then its first container decides what it
                begins with (see populate.py), once and for all
    used        any number of containers mount the directory by bind mount, so locks, mappings and appends are those of
                one kernel file system; nothing is ever mounted `volatile`
    snapshot    what it is at one moment, under a name: a tree of its own that shares its blocks (see snapshot.py). A
                volume can go back to one, a new volume can begin with one, and containers can mount one, read-only, and
                keep it; they go with the volume
    push, pull  it, or a snapshot, as chunks in an OCI layout, and a new volume from there (see artifact/)
    remove      refused as long as a container names it, running or not; row gone, then the directory to the trash

volumes/<name>/
    data        what containers see; on btrfs a subvolume, which has snapshots of its own
    mounts      mount points for parts of it (`subpath`), while a container starts
    limit.image in place of `data`, for one whose size is limited: a file system with all its trees (see trees.py)
snapshots/<name>@<snapshot>/
    data        the files of a snapshot

A row is there from the moment at which the directory is, to the transaction: new ones wait in a lease's staging and get
their names in the transaction that inserts their rows; what no row names is rubbish, which a collection takes. Names
are safe on a disk ([a-zA-Z0-9][a-zA-Z0-9_.-]*); paths inside are resolved with openat2 below `data`, never by the host,
for whoever writes in a volume can put a symlink anywhere in it.

Locks. Who populates, copies, pushes, exports or imports holds the room (`content.readers`: a pool waits, or refuses,
to move it) and the volume's directory, shared; who populates or removes it alone. A snapshot or a rollback holds first
the containers that name it, so that none starts, and then the volume, alone; a start waits there. Who reads a snapshot
holds its directory, shared; who removes it, or its volume, alone, and waits for nobody.
"""
