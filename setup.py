"""Builds the native extensions; everything else about the distribution is in pyproject.toml.

Cython runs in one process per core and so does the C compiler. Only what changed is built again, and all of
it after an edit of this file. Neighbour: the Makefile, which sets these.

Environment:
    FAIRLEAD_ONLY       comma-separated module names: build only these, in seconds; `none`: nothing
    FAIRLEAD_ANNOTATE   non-empty: write `cython -a` pages below build/annotate and compile nothing
    FAIRLEAD_SANITIZE   non-empty: address and undefined-behaviour sanitizers, -O1
    FAIRLEAD_MARCH      value for -march; default x86-64-v2 on x86-64, the compiler's default elsewhere
"""

import os
import platform
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
SOURCES = ["router/_fastpath.pyx", "router/native/*.pyx", "bench/native/*.pyx", "bench/sim/*.pyx"]

sanitize = bool(os.environ.get("FAIRLEAD_SANITIZE"))
march = os.environ.get("FAIRLEAD_MARCH") or ("x86-64-v2" if platform.machine() == "x86_64" else "")
annotate = bool(os.environ.get("FAIRLEAD_ANNOTATE"))
only = {name for name in os.environ.get("FAIRLEAD_ONLY", "").split(",") if name}
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

compile_args = ["-std=gnu11", "-fno-strict-aliasing", "-Wno-unused-function", "-Wno-unreachable-code"]
link_args: list[str] = []
if march:
    compile_args.append(f"-march={march}")
if sanitize:
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    compile_args += ["-O1", "-g", *flags]
    link_args += flags
else:
    compile_args += ["-O3", "-g1"]


def extensions() -> list[Extension]:
    found = []
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if only and name not in only:
                continue
            found.append(
                Extension(
                    name,
                    [str(path.relative_to(ROOT))],
                    extra_compile_args=compile_args,
                    extra_link_args=link_args,
                    depends=["setup.py"],
                    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
                )
            )
    return found


setup(
    ext_modules=cythonize(
        extensions(),
        nthreads=cores,
        annotate=annotate,
        build_dir="build/annotate" if annotate else None,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
            "freethreading_compatible": False,
        },
    ),
    options={"build_ext": {"parallel": cores}},
)
