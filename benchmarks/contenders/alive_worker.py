"""usage: alive_worker.py STORE REFERENCE PROGRAM; a program that keeps containers through Lazarus' API.

Reads lines "begin NAME..." (each from a thread, where there are several) and "end NAME", and answers each with the
seconds that it took, or "error WHY". A process of its own because the supervisor of a container in the background is a
fork of the process that started it: it begins with that one's memory, and a test runner's would count.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import lazarus

root, reference, program = sys.argv[1:]
with lazarus.Store(root) as store:
    image = store.images.get(reference)

    def begin(name: str) -> None:
        store.containers.create(image, command=[program], name=name, ephemeral=True).start()

    for line in sys.stdin:
        verb, *names = line.split()
        begun = time.perf_counter()
        try:
            if verb == "end":
                store.containers.get(names[0]).remove(force=True)
            elif len(names) == 1:
                begin(names[0])
            else:
                with ThreadPoolExecutor(len(names)) as threads:
                    list(threads.map(begin, names))
            answer = str(time.perf_counter() - begun)
        except (OSError, lazarus.errors.LazarusError) as error:
            answer = f"error {error}"
        print(answer, flush=True)
