"""The tables of the catalogue. Digests are text (`sha256:...`), times are seconds since 1970, sizes are bytes."""

from __future__ import annotations

VERSION = 6
APPLICATION_ID = 0x4C5A5253  # "LZRS": tells our database from any other SQLite file

TABLES = (
    """CREATE TABLE blobs (
        digest TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        created REAL NOT NULL
    ) WITHOUT ROWID""",
    # damaged: verification found bytes missing or wrong; such a layer counts as absent until it is published again
    """CREATE TABLE layers (
        diff_id TEXT PRIMARY KEY,
        tar_size INTEGER NOT NULL,
        entry_count INTEGER NOT NULL,
        content_size INTEGER NOT NULL,
        object_count INTEGER NOT NULL,
        created REAL NOT NULL,
        damaged INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID""",
    # Which stored form inflates to which layer. The bytes themselves are a blob only when kept = 1. annotations is
    # JSON: what the descriptor of a form that was made here as zstd:chunked has to say about it. NULL: not made so.
    """CREATE TABLE layer_blobs (
        digest TEXT PRIMARY KEY,
        diff_id TEXT NOT NULL REFERENCES layers(diff_id) ON DELETE CASCADE,
        compression TEXT NOT NULL CHECK (compression IN ('none', 'gzip', 'zstd')),
        size INTEGER NOT NULL,
        kept INTEGER NOT NULL,
        annotations TEXT CHECK (annotations IS NULL OR json_valid(annotations))
    ) WITHOUT ROWID""",
    "CREATE INDEX layer_blobs_of ON layer_blobs(diff_id)",
    """CREATE TABLE images (
        manifest_digest TEXT PRIMARY KEY,
        config_digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        created REAL NOT NULL,
        size INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX images_by_config ON images(config_digest)",
    # Deferred, so that an image's rows may be inserted in any order within a transaction.
    """CREATE TABLE image_layers (
        manifest_digest TEXT NOT NULL
            REFERENCES images(manifest_digest) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        position INTEGER NOT NULL,
        diff_id TEXT NOT NULL REFERENCES layers(diff_id) DEFERRABLE INITIALLY DEFERRED,
        blob_digest TEXT,
        PRIMARY KEY (manifest_digest, position)
    ) WITHOUT ROWID""",
    "CREATE INDEX image_layers_of ON image_layers(diff_id)",
    """CREATE TABLE names (
        reference TEXT PRIMARY KEY,
        manifest_digest TEXT NOT NULL
            REFERENCES images(manifest_digest) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        created REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX names_of ON names(manifest_digest)",
    # config is JSON; layers in its "diff_ids" are kept for the container. part_of: it is no container of its own, but
    # holds what that one changes in an image that is mounted in it.
    """CREATE TABLE containers (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        manifest_digest TEXT NOT NULL,
        chain_id TEXT NOT NULL,
        created REAL NOT NULL,
        config TEXT NOT NULL CHECK (json_valid(config)),
        part_of TEXT REFERENCES containers(id) ON DELETE CASCADE
    ) WITHOUT ROWID""",
    "CREATE INDEX containers_of ON containers(part_of)",
    # labels is JSON. anonymous: it was given no name. fresh: nobody has mounted it or written in it yet.
    """CREATE TABLE volumes (
        name TEXT PRIMARY KEY,
        created REAL NOT NULL,
        labels TEXT NOT NULL CHECK (json_valid(labels)),
        anonymous INTEGER NOT NULL,
        fresh INTEGER NOT NULL
    ) WITHOUT ROWID""",
    # What a volume was at one time, and what the copy came to: entries, bytes shared with the volume, bytes written.
    """CREATE TABLE snapshots (
        volume TEXT NOT NULL REFERENCES volumes(name) ON DELETE CASCADE,
        name TEXT NOT NULL,
        created REAL NOT NULL,
        fresh INTEGER NOT NULL,
        entries INTEGER NOT NULL,
        shared INTEGER NOT NULL,
        copied INTEGER NOT NULL,
        PRIMARY KEY (volume, name)
    ) WITHOUT ROWID""",
    # A volume cannot go while a container names it, nor a container name one that is not there.
    """CREATE TABLE container_volumes (
        container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
        volume TEXT NOT NULL REFERENCES volumes(name),
        PRIMARY KEY (container_id, volume)
    ) WITHOUT ROWID""",
    "CREATE INDEX container_volumes_of ON container_volumes(volume)",
    # A row says: this stack was whole when written, under that boot. After another boot it is checked once.
    # root is JSON: the attributes of the root directory, which a container's upper begins with.
    """CREATE TABLE stacks (
        chain_id TEXT PRIMARY KEY,
        diff_ids TEXT NOT NULL,
        index_size INTEGER NOT NULL,
        image_size INTEGER NOT NULL,
        image_digest TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        root TEXT NOT NULL CHECK (json_valid(root))
    ) WITHOUT ROWID""",
    """CREATE TABLE leases (
        id TEXT PRIMARY KEY,
        purpose TEXT NOT NULL,
        pid INTEGER NOT NULL,
        start_time INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        pid_namespace TEXT NOT NULL,
        created REAL NOT NULL,
        expires REAL NOT NULL
    ) WITHOUT ROWID""",
    # Repositories of registries ("localhost:5000/a") that had a blob of a layer when we last saw it there.
    """CREATE TABLE blob_places (
        digest TEXT NOT NULL,
        repository TEXT NOT NULL,
        diff_id TEXT NOT NULL REFERENCES layers(diff_id) ON DELETE CASCADE,
        seen REAL NOT NULL,
        PRIMARY KEY (digest, repository)
    ) WITHOUT ROWID""",
    "CREATE INDEX blob_places_of ON blob_places(diff_id)",
    # For which platform an image index had an image, where its config says another one.
    """CREATE TABLE offers (
        manifest_digest TEXT PRIMARY KEY
            REFERENCES images(manifest_digest) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        os TEXT NOT NULL,
        architecture TEXT NOT NULL,
        variant TEXT NOT NULL
    ) WITHOUT ROWID""",
    # What this store alone knows, drawn when it is first asked for: "chunks" is the key that chunks are cut with.
    """CREATE TABLE secrets (
        purpose TEXT PRIMARY KEY,
        secret BLOB NOT NULL CHECK (length(secret) = 32)
    ) WITHOUT ROWID""",
)
