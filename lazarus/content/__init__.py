"""What a store holds and how it gets there: catalogue, blobs, objects, leases, staging, publishing, collection.

Words
    blob        bytes under their digest as stored: manifests, configs, and compressed layers when they are kept
    object      the content of one regular file, under its SHA-256, once for the whole store
    layer       a directory with an index and a recipe (see `lazarus.layers`)
    stack       a merged index and its EROFS image; a cache that can be rebuilt at any time
    catalogue   the SQLite database. What no row names does not exist, whatever lies in the directories
    reserve     4 MiB of disk held back, so that a store on a full disk opens, and can be emptied
    lease       a row (pid, start time, boot ID, expiry) and a staging directory of the same name
    claim       a lock on a digest: of several processes that want a layer from elsewhere one fetches it
    volume      a directory of its own, which containers mount (see `lazarus.volumes`); here it is moved and collected
    pool        an XFS image in the store on which everything but the catalogue lives (`pool_disk`); most have none

The life of content
    1. `with content.lease() as lease` adds the row, then makes `staging/<lease>/`.
    2. Everything new is written there. What the store has already is hard-linked there, so nobody can take it away.
    3. `content.publish(lease, ...)` writes all of it back once, then in one write transaction renames it into place,
       makes the renames durable and inserts the rows. A reader sees all of it or nothing.
    4. Leaving the `with` removes what is left in staging, and the row.

A process that dies in 2 or 3 leaves a dead lease. The next open sees it, and removes its staging and what no row names.

Several processes share a store without a daemon. SQLite's write lock covers the renames of a publish and the marking of
a collection, so neither sees the other half-way. A collection first deletes rows, durably, then (in a second
transaction) renames to trash what no row names, and deletes the trash outside the lock: killed anywhere, it has taken
nothing that a row names. It spares unreferenced layers and blobs while another live lease might count on them.

Durability: contents are on disk before they get their names, names before the rows that speak of them, and rows are
committed with `synchronous=FULL`. Leases, containers and stacks are not worth an fsync: a power cut may forget them.
"""
