"""usage: chunking.py CONTENDER FILE AVERAGE_BITS; cuts a file that is in memory, and prints the seconds of each metric
as JSON, with the number of chunks.

Each contender's usual interface is used: a buffer where it takes one, else a file object over the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

Answer = dict[str, float]


def _timed(work: Callable[[], int]) -> tuple[float, int]:
    begun = time.perf_counter()
    count = work()
    return time.perf_counter() - begun, count


def _ours(bits: int, threads: int = 1) -> dict[str, Callable[[bytes | memoryview], int]]:
    """What `lazarus.chunks` is measured at, each returning the number of rows; blocks of a fixed size, too."""
    from lazarus import chunks

    average = 1 << bits
    chunks.cut(b"")  # imports numpy

    def cut(**digests: bool) -> Callable[[bytes | memoryview], int]:
        return lambda data: len(chunks.cut(data, average=average, threads=threads, **digests))

    def blocks(**digests: bool) -> Callable[[bytes | memoryview], int]:
        return lambda data: len(chunks.blocks(data, average, threads=threads, **digests))

    return {
        "cut": cut(sha256=False, xxh3=False),
        "cut and SHA-256": cut(xxh3=False),
        "cut, SHA-256 and XXH3": cut(),
        "blocks and SHA-256": blocks(xxh3=False),
        "blocks and XXH3": blocks(sha256=False),
    }


def lazarus(data: bytes, bits: int, threads: int = 1) -> Answer:
    """`lazarus.chunks`."""
    answer = {}
    for metric, work in _ours(bits, threads).items():
        answer[metric], count = _timed(functools.partial(work, data))
        if metric == "cut":
            answer["chunks"] = count
    return answer


def two_threads(data: bytes, bits: int) -> Answer:
    """The same with two threads."""
    return lazarus(data, bits, threads=2)


def halves(data: bytes, bits: int) -> Answer:
    """Two threads that know nothing of each other, each with a half of the bytes as if it were all: what the machine
    gives to a second one."""
    view = memoryview(data)
    first, second = view[: len(view) // 2], view[len(view) // 2 :]

    def both(work: Callable[[memoryview], int]) -> int:
        other = threading.Thread(target=work, args=[second])
        other.start()
        count = work(first)
        other.join()
        return count

    return {metric: _timed(functools.partial(both, work))[0] for metric, work in _ours(bits).items()}


def pyfastcdc(data: bytes, bits: int) -> Answer:
    """pyfastcdc's chunker, as compiled by its authors where it is."""
    from pyfastcdc import FastCDC

    chunker = FastCDC(avg_size=1 << bits)
    alone, count = _timed(lambda: sum(1 for _ in chunker.cut_buf(data)))
    hashed = _timed(lambda: sum(1 for chunk in chunker.cut_buf(data) if hashlib.sha256(chunk.data).digest()))[0]
    return {"cut": alone, "cut and SHA-256": hashed, "chunks": count}


def borg(data: bytes, bits: int) -> Answer:
    """borg's buzhash chunker; SHA-256 by hashlib, where borg would use a keyed one."""
    from borg.chunker import get_chunker

    def cut() -> object:
        return get_chunker("buzhash", bits - 2, bits + 2, bits, 4095, seed=0).chunkify(io.BytesIO(data))

    alone, count = _timed(lambda: sum(1 for _ in cut()))  # type: ignore[attr-defined]
    hashed = _timed(lambda: sum(1 for chunk in cut() if hashlib.sha256(chunk.data).digest()))[0]  # type: ignore[attr-defined]
    return {"cut": alone, "cut and SHA-256": hashed, "chunks": count}


def limits(data: bytes, _bits: int) -> Answer:
    """What no chunker can beat: a copy in memory, and the libraries' hashes of the same bytes, all of them in one call:
    so that no more of Python than that is in what libxxhash takes in C (the package has its own,
    with AVX2 where the CPU has it)."""
    import xxhash

    target = memoryview(bytearray(len(data)))

    def copy() -> int:
        target[:] = data
        return 1

    copy()  # gets the pages
    return {
        "a copy in memory": _timed(copy)[0],
        "SHA-256 alone": _timed(lambda: len(hashlib.sha256(data).digest()))[0],
        "XXH3 alone": _timed(lambda: len(xxhash.xxh3_128_digest(data)))[0],
    }


CONTENDERS: dict[str, Callable[[bytes, int], Answer]] = {
    work.__name__: work for work in (lazarus, two_threads, halves, pyfastcdc, borg, limits)
}


if __name__ == "__main__":
    name, path, bits = sys.argv[1:]
    print(json.dumps(CONTENDERS[name](Path(path).read_bytes(), int(bits))))
