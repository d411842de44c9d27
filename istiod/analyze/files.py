"""Objects from files, directories and the standard input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from istiod.analyze.message import Message, message
from istiod.analyze.world import World
from meshcore.errors import ConfigError
from meshcore.manifests import FILE_BYTES_MAX, SUFFIXES, Key, Manifest, ManifestError, objects_of
from meshcore.yamldoc import YamlError

STDIN: Final = "-"
_STDIN_NAME: Final = "stdin"


def read(world: World, paths: Sequence[str], stdin: BinaryIO) -> None:
    """Add everything that the paths hold: a file, a directory with all below it, or `-`.

    A text that cannot be read as objects becomes a message, and the others are read all the same. Raises ConfigError
    for a path that does not exist, OSError for a file that cannot be opened.
    """
    found: dict[Key, Manifest] = {}
    for name, data in _texts(paths, stdin):
        for manifest in _manifests(world, name, data):
            first = found.setdefault(manifest.key, manifest)
            if first is not manifest:
                text = f"also stands in {first.file}:{first.line}, which is the one analysed; remove one of the two"
                world.faults.append(message("IST0106", manifest.key, text=text).at(manifest.file, manifest.line))
    world.add_manifests(found.values())


def _texts(paths: Sequence[str], stdin: BinaryIO) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        if path == STDIN:
            yield _STDIN_NAME, stdin.read(FILE_BYTES_MAX + 1)
        elif Path(path).is_dir():
            for file in _walk(path):
                yield file, _bytes(file)
        elif Path(path).exists():
            yield path, _bytes(path)
        else:
            raise ConfigError(f"{path}: there is no such file or directory")


def _walk(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield str(Path(folder, name))


def _bytes(path: str) -> bytes:
    with Path(path).open("rb") as source:
        return source.read(FILE_BYTES_MAX + 1)


def _manifests(world: World, name: str, data: bytes) -> Sequence[Manifest]:
    """The objects of one text; what is wrong with it goes to the world's faults."""
    if len(data) > FILE_BYTES_MAX:
        text = f"holds more than {FILE_BYTES_MAX} bytes: split it"
        world.faults.append(_fault(ManifestError(name, 1, "", "", text)))
        return ()
    try:
        manifests, errors = objects_of(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        world.faults.append(_fault(ManifestError(name, line, "", "", "is not UTF-8 text")))
        return ()
    except YamlError as exc:
        world.faults.append(_fault(ManifestError(name, exc.line, "", "", str(exc))))
        return ()
    world.faults += [_fault(error) for error in errors]
    return manifests


def _fault(error: ManifestError) -> Message:
    text = ": ".join(part for part in (error.object, error.field, error.message) if part)
    return message("IST0106", None, text=text).at(error.file, error.line)
