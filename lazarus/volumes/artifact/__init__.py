"""A volume as an OCI artifact of chunks, so that the second push sends what changed.

    manifest    an OCI image manifest: artifactType application/vnd.lazarus.volume.v1, the empty config of OCI 1.1
      layer 1   the index: application/vnd.lazarus.volume.index.v1+zstd
      layer 2.. packs: application/vnd.lazarus.volume.pack.v1

**Chunks.** Each regular file is cut by itself, its holes left out. A file of whole pages (its size a multiple of 4 KiB,
at least 64 KiB of it: databases, disk images) is cut in blocks of 4 KiB, any other where its content says, 8 KiB on
average (FastCDC, csrc/bytes/lz_chunk.h). A chunk is known by its SHA-256; equal ones are kept once, whatever files they
are in. What was measured stands below.

**A pack** holds many chunks, and at its end its table: a row of 40 bytes for each, SHA-256, length, and the length as
stored (uint32, little-endian), in the order in which the chunks lie, none missing between. A chunk is a zstd frame, or
the bytes themselves where `stored` is `length`; so one can be read by range. The descriptor of a pack says how many
there are (`vnd.lazarus.volume.pack.chunks`) and the SHA-256 of the table (`vnd.lazarus.volume.pack.table`): who has the
manifest can check a table without the rest of its pack, and with that any chunk by itself.

**The index** holds the tree, in columns: for each entry its parent, name, kind, mode, owner, mtime in nanoseconds,
size, target, device, which entry it is a hard link to, xattrs, and how many chunks it has; then holes, and the chunks
of all files in order. Names are bytes. A chunk is a number: the packs of the manifest, one after the other, and the
chunks in them. Runs (first, count, step) stand for numbers that follow one another, or are the same. So no digest is in
the index: digests lie in packs, which are never sent twice, and an index is small. Entries name their parents by
number, a lower one, and each name is one component: there is no path in it that could lead anywhere.

**A push** reads the tables of all packs that volumes' artifacts in the destination have (in a registry: under the tag
that is pushed, and 16 others of its repository, but of those no more than some million chunks), cuts, and sends what is
in none of them in new packs, then index and manifest. Packs that the volume has no chunk in are not named. Packs of
which less than a quarter is used are not named either: their chunks go into new ones, so that what a pull fetches stays
within four times what it needs. So do those of small packs when there are many. What no manifest names any more stays
in a layout until somebody removes it; `skopeo copy` to a new one leaves it behind.

A pack has 128 MiB at most, which a pull keeps in a file meanwhile.

**A pull** checks every blob's SHA-256 and size, every table's SHA-256, every chunk's length and SHA-256, and that what
the index says is a tree that these chunks fill exactly, before anything shows; see index.py for the rules.

Measured: the second push of 1 GiB (four files, half of each page noise) of which 1 % of the pages were changed at
random; bytes sent as a share of the volume, and before compression:

    cut in                pages of 4 KiB changed    of 8 KiB
    blocks of 4 KiB       0.55 %   (1.00 %)         0.55 %   (1.00 %)
    blocks of 8 KiB       1.08 %   (1.99 %)         0.55 %   (1.00 %)
    FastCDC,  4 KiB       1.75 %   (3.41 %)         1.14 %   (2.22 %)
    FastCDC,  8 KiB       2.62 %   (5.11 %)         1.70 %   (3.30 %)
    FastCDC, 16 KiB       4.22 %   (8.25 %)         2.68 %   (5.23 %)

Small blocks cost at the first push: 54.98 % was sent with 4 KiB, 54.32 % with 8, 51.45 % with FastCDC of 8 KiB, for
zstd sees less at once and a row is 1 % of a block. The index is 11 KB of that, so it is not split.

**Memory.** A push takes 154 MiB for that volume (262,144 chunks), of which about 115 bytes are for each chunk. A pull
takes 80 MiB, and as much for a file of zeros of any size: it knows where chunks go by runs, and expands those some
thousand places at a time. What grows is bounded by what the artifact has, not by what that stands for: twice the bytes
of the index (index.py says what they may be; 64 for an entry with a name of 8 bytes), five times those of its runs, and
for each chunk of the packs 12 bytes. Before a table is fetched, what packs say of themselves is compared with the
index: no run may name a chunk that is in none of them, no pack may have none that is named, and all of them together
have 2^28 chunks at most. The table of one pack at a time is in memory, 40 MiB at most.
"""
