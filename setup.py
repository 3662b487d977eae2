"""Builds csrc/ as one static library and every lazarus/_native/*.pyx as an extension on top of it.

Everything that is static metadata lives in pyproject.toml; this file holds what only code can say: where the
C libraries are, and which Debian package to install when one is missing.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# pkg-config name -> Debian package that brings it
LIBRARIES = {
    "libcrypto": "libssl-dev",
    "libisal": "libisal-dev",
    "libzstd": "libzstd-dev",
    "zlib": "zlib1g-dev",
    "libxxhash": "libxxhash-dev",
}


def pkg_config(*arguments: str) -> list[str]:
    return shlex.split(subprocess.run(["pkg-config", *arguments], check=True, capture_output=True, text=True).stdout)


def check_libraries() -> None:
    """Stop with one line that names every Debian package that is missing."""
    try:
        subprocess.run(["pkg-config", "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit("lazarus: cannot build: pkg-config is missing (Debian package: pkg-config)")
    missing = [
        package
        for name, package in LIBRARIES.items()
        if subprocess.run(["pkg-config", "--exists", name], check=False).returncode != 0
    ]
    if missing:
        sys.exit(f"lazarus: cannot build: missing development packages: {' '.join(missing)}")


check_libraries()
cflags = pkg_config("--cflags", *LIBRARIES)
libs = pkg_config("--libs", *LIBRARIES)
c_flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-pthread", "-fvisibility=hidden", *cflags]
headers = sorted(str(path) for path in Path("csrc").glob("*/*.h"))

only = {
    name for name in os.environ.get("LAZARUS_ONLY", "").split(",") if name
}  # build a few extensions while developing

extensions = [
    Extension(
        f"lazarus._native.{path.stem}",
        [str(path)],
        extra_compile_args=[*c_flags, "-Wno-unused-function"],
        # as-needed: an extension loads only the libraries that it calls, which keeps `import lazarus` short
        extra_link_args=["-pthread", "-Wl,--as-needed", *libs],
        include_dirs=["csrc"],
        depends=[
            *headers,
            *sorted(str(p) for p in Path("csrc").glob("*/*.c")),
            *sorted(str(p) for p in Path("lazarus/_native").glob("*.pxd")),
        ],
    )
    for path in sorted(Path("lazarus/_native").glob("*.pyx"))
    if not only or path.stem in only
]

setup(
    libraries=[
        (
            "lz",
            {
                "sources": sorted(str(path) for path in Path("csrc").glob("*/*.c")),
                "depends": headers,
                "cflags": [*c_flags, "-fPIC", "-Wall", "-Wextra"],
            },
        )
    ],
    ext_modules=cythonize(
        extensions,
        compiler_directives={"language_level": 3, "embedsignature": True, "freethreading_compatible": False},
        build_dir="build/cython",
        nthreads=int(os.environ.get("LAZARUS_BUILD_JOBS", "0")),
        quiet=True,
    ),
)
