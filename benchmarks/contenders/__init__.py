"""Who is asked: Lazarus in its several ways, the kernel, and the peers from Debian's packages and PyPI."""
