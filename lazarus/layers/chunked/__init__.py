"""zstd:chunked, the form of a layer of which parts can be fetched (containers/storage, pkg/chunked).

`writer.py` makes it out of a layer of the store, `reader.py` a layer of the store out of parts of it. To everyone it is
an ordinary zstd layer; its table of contents, with the SHA-256 of each file and where it lies, is bound to the image by
annotations of the layer's descriptor.
"""

from lazarus.layers.chunked.annotations import Footer, parse_annotations
from lazarus.layers.chunked.reader import Ranges, ingest_chunked
from lazarus.layers.chunked.writer import ChunkedBlob, write_chunked

__all__ = ["ChunkedBlob", "Footer", "Ranges", "ingest_chunked", "parse_annotations", "write_chunked"]
