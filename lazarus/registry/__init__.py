"""The client of the OCI distribution specification (v1.1), over urllib3. A registry is never trusted.

    settings.py      who is asked for what, and how: Repository, Credentials, Settings
    client.py        the verbs: RegistryClient
    manifests.py     manifests as they come, of which kind, and whether they are what was asked
    blob.py          BlobStream: the bytes of a blob, resumed by Range
    upload.py        sending blobs, also mounting them, and manifests
    listing.py       tags, page by page
    referrers.py     what refers to a manifest
    login.py         logging in and out
    session.py       what is remembered between requests; from a verb's call to an answer
    mirrors.py       registries.conf
    others.py        after wrong bytes of a mirror, the next one
    auth.py          WWW-Authenticate answered: basic, bearer, tokens
    credentials.py   the files of docker and podman
    helpers.py       docker-credential-*
    http.py          one request: redirects, retries, bounds, errors
    retries.py       what is tried again, how often, after how long
    addresses.py     where a server may send us
    challenges.py    headers with a grammar
    tls.py           which certificates count for whom
    wire.py          urllib3's connections, bounded
    words.py         what a server says, fit to be printed

What always holds:

- Credentials go to the registry that they are kept for and to its token server, and never along a redirect, to the host
  of an upload or a next page elsewhere, or in plain HTTP where HTTPS was spoken.
- What a server sends is bounded before it is read: heads by 256 KiB, manifests and lists by 4 MiB, tokens by 1 MiB,
  errors by 64 KiB and one line, blobs by the size in their descriptor; and in time, by 64 KiB for each timeout.
- Plain HTTP is spoken when it was asked for, or to loopback addresses.

urllib3 takes long to import (50 ms and more): only `RegistryClient()` does it, importing this package or `client`
does not.
"""
