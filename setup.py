"""Compiled extensions: which ones, with which directives, in which of five builds.

AMBIENT_BUILD   directives and C flags                              where the modules go
release         -O2, asserts compiled out (the default)             beside their source (--inplace)
debug           boundscheck, asserts, -DMESH_DEBUG=1, -O1 -g        build/debug/lib
asan            debug with AddressSanitizer and UBSan               build/asan/lib
seeded          release with defects to turn on (meshcore/seeds)    build/seeded/lib
check           release with every warning an error, always anew    build/check/lib
none            no extensions: metadata and scripts only            -

C sources and objects stay under build/<variant>/. A tree under build/<variant>/lib holds the modules
and links to the Python files, so that PYTHONPATH=build/debug/lib runs the same source on that build.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGES = ("meshcore", "ambient", "ztunnel", "waypoint", "istiod", "cni", "bench")
COMPILED = ("meshcore", "ztunnel", "waypoint", "bench")
SHIPPED = tuple(package for package in COMPILED if package != "bench")
VARIANTS = ("release", "debug", "asan", "seeded", "check", "none")
JOBS = max(1, min(4, os.cpu_count() or 1))

VARIANT = os.environ.get("AMBIENT_BUILD") or "release"
if VARIANT not in VARIANTS:
    sys.exit(f"setup.py: AMBIENT_BUILD={VARIANT!r} is not one of {', '.join(VARIANTS)}")
CHECKED = VARIANT in {"debug", "asan"}

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": CHECKED,
    "warn.maybe_uninitialized": True,
}

CFLAGS = [
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    # What Cython's own C gives reason for; our declarations keep every other warning.
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-Wno-unused-variable",
    "-Wno-unused-but-set-variable",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-Wno-sign-compare",
    # List heads are reached as members and through pointers to them. gcc 12 at -O2 takes the two for different objects
    # and moves a load of the head's `next` out of the loop that changes it: the loop never ends.
    "-fno-strict-aliasing",
]
RELEASE_CFLAGS = ["-O2", "-g0", "-DCYTHON_WITHOUT_ASSERTIONS"]
DEBUG_CFLAGS = ["-O1", "-g", "-UNDEBUG", "-DMESH_DEBUG=1", "-fno-omit-frame-pointer"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
VARIANT_CFLAGS = {
    "release": RELEASE_CFLAGS,
    "debug": DEBUG_CFLAGS,
    "asan": [*DEBUG_CFLAGS, "-U_FORTIFY_SOURCE", *SANITIZE],
    "seeded": [*RELEASE_CFLAGS, "-DMESH_SEEDED=1"],
    "check": [*RELEASE_CFLAGS, "-Werror"],
}
LIBRARIES = ["ssl", "crypto", "nghttp2"]
# A module that calls no function of a library does not load it.
LDFLAGS = ["-Wl,--as-needed", "-Wl,-z,relro,-z,now"]


def extensions() -> list[Extension]:
    """One extension per `.pyx` file."""
    return [
        Extension(
            source.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."),
            [source.relative_to(ROOT).as_posix()],
            libraries=LIBRARIES,
            extra_compile_args=[*CFLAGS, *VARIANT_CFLAGS[VARIANT]],
            extra_link_args=[*LDFLAGS, *(SANITIZE if VARIANT == "asan" else [])],
            depends=["setup.py"],
        )
        for package in COMPILED
        for source in sorted((ROOT / package).glob("*.pyx"))
    ]


def link_sources(lib: Path) -> None:
    """Make `lib` importable: every package directory, with a link to each file that is not compiled."""
    for package in PACKAGES:
        for source in (ROOT / package).rglob("*"):
            target = lib / source.relative_to(ROOT)
            if "__pycache__" in source.parts or source.is_dir() or source.suffix in {".so", ".c", ".pyx", ".pxd"}:
                continue
            if not target.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                target.symlink_to(source)
    for link in lib.rglob("*"):
        if link.is_symlink() and not link.exists():
            link.unlink()


class BuildExt(build_ext):
    """Cythonize into build/<variant>/c, compile in parallel, keep the variants apart."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = JOBS
        self.build_temp = f"build/{VARIANT}/obj"

    def finalize_options(self) -> None:
        super().finalize_options()
        if VARIANT not in {"release", "none"}:
            self.inplace = False
        if self.inplace or VARIANT != "release":
            self.build_lib = f"build/{VARIANT}/lib"
        else:
            # What goes into build_lib here goes into a wheel, and the bench runs from the source tree only.
            built: list[Extension] = self.distribution.ext_modules or []
            self.extensions = [each for each in built if each.name.partition(".")[0] in SHIPPED]

    def run(self) -> None:
        if not self.extensions:
            return
        # Imported here: metadata can be read without Cython.
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError

        work = ROOT / "build" / VARIANT
        configured = work / "configured"
        script_changed = not configured.exists() or configured.stat().st_mtime < Path(__file__).stat().st_mtime
        if VARIANT == "check" or script_changed:
            shutil.rmtree(work / "c", ignore_errors=True)
            work.mkdir(parents=True, exist_ok=True)
            configured.touch()
        try:
            translated = cythonize(
                self.extensions,
                build_dir=f"build/{VARIANT}/c",
                compiler_directives=DIRECTIVES,
                nthreads=JOBS,
                show_all_warnings=VARIANT == "check",
            )
        except CompileError as error:
            sys.exit(f"setup.py: {error} does not compile: see above")
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().run()
        if VARIANT != "release":
            link_sources(Path(self.build_lib))


setup(ext_modules=[] if VARIANT == "none" else extensions(), cmdclass={"build_ext": BuildExt})
