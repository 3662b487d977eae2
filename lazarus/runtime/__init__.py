"""One process of one container: an OCI bundle, crun or runc, terminals, logs, and the loop that waits for it to end.

    user.py        who it runs as: names looked up in the container's own /etc/passwd and /etc/group
    bundle.py      the OCI runtime-spec document
    crun.py        the runtime program, and what it must be told about this machine's cgroups
    supervisor.py  starts it, forwards signals, carries its output, says how it ended
    forking.py     what the children that are started here hold of this process
    console.py     pseudo-terminals
    log.py         what a container wrote, kept as lines of JSON

Nothing here knows of images, stores or layers: a root file system is a directory.
"""
