"""The documents and containers of the OCI image specification (and Docker's before it), without a store.

    media.py           media types: what each one is, and Docker's as OCI's
    strict_json.py     JSON that means one thing only
    documents.py       manifests, image indexes, configs: read, checked, written
    references.py      name[:tag][@digest]
    platforms.py       which manifest of an image index fits
    outer_tar.py       where the members of an archive lie; nothing is ever unpacked
    layout.py          OCI layouts, as directories and as archives
    docker_archive.py  what `docker save` and `podman save` write
    writers.py         deterministic archives and directories

Whatever comes from outside is checked here, once, and is a value of a type afterwards. Names inside archives are keys
of a dictionary, never paths of the host.
"""
