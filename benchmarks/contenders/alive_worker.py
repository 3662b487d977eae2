"""usage: alive_worker.py STORE REFERENCE PROGRAM; a program that keeps containers through Lazarus' API.

Reads lines "begin NAME" and "end NAME", and answers each with the seconds that it took, or "error WHY". A process of
its own because the supervisor of a container in the background is a fork of the process that started it: it begins with
that one's memory, and a test runner's would count.
"""

import sys
import time

import lazarus

root, reference, program = sys.argv[1:]
with lazarus.Store(root) as store:
    image = store.images.get(reference)
    for line in sys.stdin:
        verb, name = line.split()
        begun = time.perf_counter()
        try:
            if verb == "begin":
                store.containers.create(image, command=[program], name=name, ephemeral=True).start()
            else:
                store.containers.get(name).remove(force=True)
            answer = str(time.perf_counter() - begun)
        except (OSError, lazarus.errors.LazarusError) as error:
            answer = f"error {error}"
        print(answer, flush=True)
