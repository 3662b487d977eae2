"""Where things lie below the root of a store. Names only: nothing here touches the disk."""

from __future__ import annotations

from lazarus.terms import ChainID, DiffID, Digest


class StorePaths:
    """The directories of the store at `root` (absolute), and the place of each thing in them; all are `str`."""

    __slots__ = (
        "blobs",
        "checkpoints",
        "claims",
        "containers",
        "db",
        "layers",
        "objects",
        "reserve",
        "root",
        "snapshots",
        "stacks",
        "staging",
        "trash",
        "volumes",
    )

    def __init__(self, root: str) -> None:
        self.root = root
        self.db = f"{root}/lazarus.db"
        self.claims = f"{root}/claims"
        self.blobs = f"{root}/blobs/sha256"
        self.objects = f"{root}/objects"
        self.layers = f"{root}/layers"
        self.stacks = f"{root}/stacks"
        self.containers = f"{root}/containers"
        self.checkpoints = f"{root}/checkpoints"
        self.volumes = f"{root}/volumes"
        self.snapshots = f"{root}/snapshots"
        self.staging = f"{root}/staging"
        self.reserve = f"{root}/reserve"
        self.trash = f"{root}/trash"

    def directories(self) -> tuple[str, ...]:
        """Every directory that a new store has, parents first."""
        return (
            f"{self.root}/blobs",
            self.blobs,
            self.objects,
            self.layers,
            self.stacks,
            self.containers,
            self.checkpoints,
            self.volumes,
            self.snapshots,
            self.staging,
            self.trash,
            self.reserve,
        )

    # With a pool (see `lazarus.content.pool_disk`); names that a store without one does not have.

    @property
    def data(self) -> str:
        """A link to where the rooms are."""
        return f"{self.root}/data"

    @property
    def host(self) -> str:
        """The rooms on the host's own file system, while they are reached through `data`."""
        return f"{self.root}/host"

    @property
    def pool(self) -> str:
        """The directory of the pool: its image and its mount point."""
        return f"{self.root}/pool"

    @property
    def pool_image(self) -> str:
        """The sparse file with the pool's file system."""
        return f"{self.root}/pool/image"

    @property
    def pool_mount(self) -> str:
        """Where that is mounted."""
        return f"{self.root}/pool/mount"

    def blob(self, digest: Digest) -> str:
        """The file of a blob."""
        return f"{self.blobs}/{digest.hex}"

    def object(self, digest: Digest) -> str:
        """The file of an object."""
        return f"{self.objects}/{digest.hex[:2]}/{digest.hex[2:]}"

    def layer(self, diff_id: DiffID) -> str:
        """The directory of a layer: `index` and `recipe`."""
        return f"{self.layers}/{diff_id.hex}"

    def stack(self, chain_id: ChainID) -> str:
        """The directory of a stack: `index` and `metadata.erofs`."""
        return f"{self.stacks}/{chain_id.hex}"

    def container(self, container_id: str) -> str:
        """The directory of a container."""
        return f"{self.containers}/{container_id}"

    def checkpoint(self, key: str) -> str:
        """The directory of a checkpoint; `key` is container ID/name. Those of one container are in one directory."""
        return f"{self.checkpoints}/{key}"

    def volume(self, name: str) -> str:
        """The directory of a volume."""
        return f"{self.volumes}/{name}"

    def snapshot(self, volume: str, name: str) -> str:
        """The directory of a snapshot; no name of a volume has an @ in it."""
        return f"{self.snapshots}/{volume}@{name}"
