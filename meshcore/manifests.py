"""A directory of ordinary Kubernetes YAML as a source of objects.

Files ending in .yaml, .yml or .json are read recursively, hidden names are left out. A file is the unit of trust: while
it holds a fault, the objects of its last good version stay in force and every other file is unaffected.

A second directory may hold *status*: small files in which agents note what they did to an object (`write_status`). They
are merged into the object of the same kind, namespace and name, and are never objects themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, Final

import msgspec
import watchfiles

from meshcore.errors import ConfigError
from meshcore.yamldoc import Document, Path, YamlError, field_lines, nearest_line, parse

Key = tuple[str, str, str]
"""kind (see `key_kind`), namespace ("" for cluster-scoped kinds), name."""

SUFFIXES: Final = (".yaml", ".yml", ".json")
FILE_BYTES_MAX: Final = 32 * 2**20
SETTLE_S: Final = 0.2
"""A file that is broken and younger than this is probably being written: it is looked at again before complaining."""
POLL_S: Final = 5.0
"""The directory is also read this often, in case a notification was lost (removed and re-created directories)."""
_STEP_MS: Final = 20
_DEBOUNCE_MS: Final = 200

CLUSTER_SCOPED: Final = frozenset(
    (
        "Namespace",
        "Node",
        "GatewayClass",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "IngressClass",
        "MutatingWebhookConfiguration",
        "PersistentVolume",
        "PriorityClass",
        "StorageClass",
        "ValidatingWebhookConfiguration",
    )
)


_SHARED_KINDS: Final = {"Gateway": "gateway.networking.k8s.io", "Service": ""}
"""Kinds that several API groups have, and the group that is meant by the bare name."""


def key_kind(kind: str, group: str) -> str:
    """The kind as it stands in a key: with its group where the bare name means another group's."""
    return f"{kind}.{group}" if _SHARED_KINDS.get(kind, group) != group else kind


class Manifest(msgspec.Struct, frozen=True, gc=False):
    """One object and where it was written. `obj` is shared: never change it."""

    file: str
    line: int
    api_version: str
    kind: str
    namespace: str
    name: str
    obj: dict[str, Any]
    text: str = ""
    prefix: Path = ()

    @property
    def key(self) -> Key:
        return (key_kind(self.kind, self.api_version.rpartition("/")[0]), self.namespace, self.name)

    @property
    def title(self) -> str:
        """`Kind namespace/name`, as error texts say it."""
        return title(self.key)

    def line_of(self, path: Path) -> int:
        """The line of a field, or of its closest parent that is written; parses the text again, so for errors only."""
        if not self.text:
            return self.line
        lines = field_lines(self.text)
        offset = self.line - nearest_line(lines, self.prefix)
        return offset + nearest_line(lines, (*self.prefix, *path))

    def error(self, path: Path, message: str) -> ManifestError:
        """An error about one field of this object."""
        return ManifestError(self.file, self.line_of(path), self.title, dotted(path), message)


class ManifestError(msgspec.Struct, frozen=True, gc=False):
    """What is wrong, and where. `object` and `field` are empty when the fault is the file's own."""

    file: str
    line: int
    object: str
    field: str
    message: str

    def __str__(self) -> str:
        parts = (f"{self.file}:{self.line}" if self.file else "", self.object, self.field, self.message)
        return ": ".join(part for part in parts if part)


class Scan(msgspec.Struct, frozen=True):
    """All objects in force after one reading, and what differs from the reading before."""

    objects: Mapping[Key, Manifest]
    changed: frozenset[Key]
    removed: frozenset[Key]
    errors: tuple[ManifestError, ...]
    unsettled: bool = False


class _File(msgspec.Struct):
    signature: tuple[int, ...] | None = None
    text: str | None = None
    manifests: tuple[Manifest, ...] = ()
    errors: tuple[ManifestError, ...] = ()
    unsettled: bool = False


class ManifestDirectory:
    """The objects of a directory; one owner calls `scan` or `watch`, not both at once."""

    def __init__(self, path: str | os.PathLike[str], status_path: str | os.PathLike[str] | None = None) -> None:
        self.path = os.fspath(path)
        self.status_path = None if status_path is None else os.fspath(status_path)
        self._files: dict[str, _File] = {}
        self._status_files: dict[str, _File] = {}
        self._objects: dict[Key, Manifest] = {}
        self._merged: dict[Key, tuple[Manifest, dict[str, Any], Manifest]] = {}
        self._errors: tuple[ManifestError, ...] = ()

    def scan(self) -> Scan:
        """Read what changed since the last call. Raises ConfigError if the directory cannot be read at all."""
        if not FilePath(self.path).is_dir():
            raise ConfigError(f"{self.path}: not a directory; it should hold Kubernetes YAML files")
        self._files = _refresh(self.path, self._files, objects_of)
        errors = [error for _, file in sorted(self._files.items()) for error in file.errors]
        base = self._choose(errors)
        if self.status_path is not None:
            self._status_files = _refresh(self.status_path, self._status_files, _status_of)
            errors += [error for _, file in sorted(self._status_files.items()) for error in file.errors]
            self._overlay(base)
        before = self._objects
        changed = frozenset(
            k for k, m in base.items() if k not in before or (before[k] is not m and before[k].obj != m.obj)
        )
        removed = frozenset(before.keys() - base.keys())
        self._objects, self._errors = base, tuple(errors)
        unsettled = any(f.unsettled for files in (self._files, self._status_files) for f in files.values())
        return Scan(base, changed, removed, self._errors, unsettled)

    async def watch(self, stop: asyncio.Event) -> AsyncIterator[Scan]:
        """Yield the state at once, then after every change of objects or errors, until `stop` is set."""
        paths = [self.path]
        if self.status_path is not None:
            await asyncio.to_thread(FilePath(self.status_path).mkdir, parents=True, exist_ok=True)
            paths.append(self.status_path)
        errors = self._errors
        async for cause in self._ticks(paths, stop):
            scan = await asyncio.to_thread(self._try_scan)
            while scan is not None and scan.unsettled and not stop.is_set():
                if scan.changed or scan.removed:
                    yield scan
                await _wait(stop, SETTLE_S)
                scan = await asyncio.to_thread(self._try_scan)
            if scan is None or stop.is_set():
                continue
            if scan.changed or scan.removed or scan.errors != errors or cause == "first":
                errors = scan.errors
                yield scan

    async def _ticks(self, paths: list[str], stop: asyncio.Event) -> AsyncIterator[str]:
        yield "first"
        while not stop.is_set():
            try:
                async for _ in watchfiles.awatch(
                    *paths,
                    watch_filter=None,
                    step=_STEP_MS,
                    debounce=_DEBOUNCE_MS,
                    stop_event=stop,
                    rust_timeout=int(POLL_S * 1000),
                    yield_on_timeout=True,
                ):
                    yield "change"
            except OSError:  # the directory is away for now; what was read stays in force
                await _wait(stop, SETTLE_S)
                yield "missing"

    def _try_scan(self) -> Scan | None:
        try:
            return self.scan()
        except (ConfigError, OSError) as exc:
            error = ManifestError(self.path, 0, "", "", f"{exc}; what was read before stays in force")
            if not self._objects and not self._errors:
                raise
            return Scan(self._objects, frozenset(), frozenset(), (error,))

    def _choose(self, errors: list[ManifestError]) -> dict[Key, Manifest]:
        """One manifest a key: of two files that hold the same object, the one in force stays."""
        chosen: dict[Key, Manifest] = {}
        doubles: list[tuple[Manifest, Manifest]] = []
        for _, file in sorted(self._files.items()):
            for manifest in file.manifests:
                first = chosen.setdefault(manifest.key, manifest)
                if first is manifest:
                    continue
                held = self._objects.get(manifest.key)
                if held is not None and held.file == manifest.file:
                    chosen[manifest.key], first, manifest = manifest, manifest, first
                doubles.append((first, manifest))
        for kept, ignored in doubles:
            text = f"also stands in {kept.file}:{kept.line}, which stays in force; remove one of the two"
            errors.append(ManifestError(ignored.file, ignored.line, ignored.title, "", text))
        return chosen

    def _overlay(self, base: dict[Key, Manifest]) -> None:
        merged: dict[Key, tuple[Manifest, dict[str, Any], Manifest]] = {}
        for _, file in sorted(self._status_files.items()):
            for patch in file.manifests:
                manifest = base.get(patch.key)
                if manifest is None:
                    continue
                known = self._merged.get(patch.key)
                if known is None or known[0] is not manifest or known[1] is not patch.obj:
                    known = (
                        manifest,
                        patch.obj,
                        msgspec.structs.replace(manifest, obj=merge_status(manifest.obj, patch.obj)),
                    )
                merged[patch.key] = known
        for key, (_, _, result) in merged.items():
            base[key] = result
        self._merged = merged


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def title(key: Key) -> str:
    """`Kind namespace/name`, or `Kind name` for a cluster-scoped kind."""
    kind, namespace, name = key
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def dotted(path: Path) -> str:
    """`("spec", "rules", 0)` as `spec.rules[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def merge_status(obj: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """`obj` with the annotations and the status keys of `patch`; neither argument is changed."""
    meta = dict(obj["metadata"])
    notes = (patch.get("metadata") or {}).get("annotations") or {}
    if notes:
        meta["annotations"] = {**(meta.get("annotations") or {}), **notes}
    result = {**obj, "metadata": meta}
    if patch.get("status"):
        result["status"] = {**(obj.get("status") or {}), **patch["status"]}
    return result


def write_status(
    status_dir: str | os.PathLike[str],
    kind: str,
    namespace: str,
    name: str,
    patch: Mapping[str, Any],
    *,
    api_version: str = "v1",
) -> None:
    """Note `patch` (`metadata.annotations` and `status` only) for one object, replacing an earlier note atomically."""
    FilePath(status_dir).mkdir(parents=True, exist_ok=True)
    path = status_file(status_dir, kind, namespace, name)
    notes = (patch.get("metadata") or {}).get("annotations") or {}
    meta: dict[str, Any] = {"name": name, "namespace": namespace, "annotations": notes}
    content = {"apiVersion": api_version, "kind": kind, "metadata": meta, "status": patch.get("status") or {}}
    data = msgspec.json.format(msgspec.json.encode(content), indent=1)
    write_atomic(path, data)


def remove_status(status_dir: str | os.PathLike[str], kind: str, namespace: str, name: str) -> None:
    """Take a note back; it is no error if there is none."""
    status_file(status_dir, kind, namespace, name).unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], data: bytes, mode: int = 0o644) -> None:
    """Replace a file in one step: a reader sees the old bytes or the new ones. The temporary name is hidden."""
    target = FilePath(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as out:
            os.fchmod(out.fileno(), mode)
            out.write(data)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def status_file(status_dir: str | os.PathLike[str], kind: str, namespace: str, name: str) -> FilePath:
    """Where `write_status` notes it; raises ConfigError if a part cannot stand in a file name."""
    for part in (kind, namespace, name):
        if "/" in part or "\0" in part:
            raise ConfigError(f"{part!r} cannot be part of the name of an object")
    return FilePath(status_dir) / f"{kind}.{namespace}.{name}.json"


def _refresh(root: str, known: dict[str, _File], convert: Any) -> dict[str, _File]:
    files: dict[str, _File] = {}
    for path in _walk(root):
        files[path] = _read(path, known.get(path) or _File(), convert)
    return files


def _walk(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield f"{folder}/{name}"


def _read(path: str, known: _File, convert: Any) -> _File:
    """The file's present state: unchanged, read anew, or the last good version beside the errors of the new one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        return _refused(known, None, ManifestError(path, 1, "", "", f"cannot be read: {exc.strerror}"))
    with os.fdopen(fd, "rb") as source:
        info = os.fstat(fd)
        signature = (info.st_ino, info.st_dev, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if known.signature == signature:
            return known
        if not stat.S_ISREG(info.st_mode):
            return _refused(known, signature, ManifestError(path, 1, "", "", "is not a regular file"))
        if info.st_size > FILE_BYTES_MAX:
            text = f"holds {info.st_size} bytes, more than {FILE_BYTES_MAX}: split it"
            return _refused(known, signature, ManifestError(path, 1, "", "", text))
        raw = source.read(FILE_BYTES_MAX + 1)
    age = time.time() - info.st_mtime  # noqa: TID251 - compared with a file's time
    young = 0 <= age < SETTLE_S
    kept = None if young else signature  # a young file may change again within one tick of its clock
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        return _refused(known, kept, ManifestError(path, line, "", "", "is not UTF-8 text"), young)
    if text == known.text:
        return _File(kept, text, known.manifests, known.errors)
    if not text.strip() and known.manifests and young:
        return _File(None, None, known.manifests, known.errors, unsettled=True)
    try:
        manifests, errors = convert(path, text)
    except YamlError as exc:
        manifests, errors = (), (ManifestError(path, exc.line, "", "", str(exc)),)
    if not errors:
        return _File(kept, text, _reuse(known.manifests, manifests))
    if young:
        return _File(None, None, known.manifests, known.errors, unsettled=True)
    return _File(signature, text, known.manifests, errors)


def _refused(known: _File, signature: tuple[int, ...] | None, error: ManifestError, young: bool = False) -> _File:
    if young:
        return _File(None, None, known.manifests, known.errors, unsettled=True)
    return _File(signature, None, known.manifests, (error,))


def _reuse(old: tuple[Manifest, ...], new: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
    """Keep the identity of objects that did not change, so that later stages compare pointers."""
    if not old:
        return new
    held = {m.key: m for m in old}
    return tuple(was if (was := held.get(m.key)) is not None and was == m else m for m in new)


def objects_of(path: str, text: str) -> tuple[tuple[Manifest, ...], tuple[ManifestError, ...]]:
    """The objects of one file's text, and what is wrong with it; raises YamlError if it cannot be read at all."""
    manifests: list[Manifest] = []
    errors: list[ManifestError] = []
    seen: dict[Key, int] = {}
    for document in parse(text):
        for data, prefix, line in _items(document):
            manifest, faults = _manifest(path, document.text, data, prefix, line)
            errors += faults
            if manifest is None:
                continue
            if manifest.key in seen:
                again = f"stands twice in this file, first at line {seen[manifest.key]}; remove one of the two"
                errors.append(ManifestError(path, line, manifest.title, "", again))
            seen.setdefault(manifest.key, line)
            manifests.append(manifest)
    return tuple(manifests), tuple(errors)


def _items(document: Document) -> Iterator[tuple[Any, Path, int]]:
    data = document.data
    if not (
        isinstance(data, dict) and str(data.get("kind", "")).endswith("List") and isinstance(data.get("items"), list)
    ):
        yield data, (), document.line
        return
    lines = field_lines(document.text)
    for index, item in enumerate(data["items"]):
        prefix: Path = ("items", index)
        yield item, prefix, document.line + nearest_line(lines, prefix)


def _manifest(
    path: str, text: str, data: Any, prefix: Path, line: int
) -> tuple[Manifest | None, tuple[ManifestError, ...]]:
    if not isinstance(data, dict):
        return None, (ManifestError(path, line, "", "", f"expected an object, found {type_name(data)}"),)
    meta = data.get("metadata")
    fields = meta if isinstance(meta, dict) else {}
    name, namespace = fields.get("name"), fields.get("namespace")
    kind = data.get("kind")
    shown = f"{kind if isinstance(kind, str) else 'object'} {name if isinstance(name, str) else '(no name)'}"
    faults = [(p, m) for p, m in _faults(data, meta, fields)]
    if faults:
        probe = Manifest(path, line, "", "", "", "", data, text, prefix)
        return None, tuple(ManifestError(path, probe.line_of(p), shown, dotted(p), m) for p, m in faults)
    scope = "" if kind in CLUSTER_SCOPED else (namespace or "default")
    manifest = Manifest(path, line, data["apiVersion"], str(kind), scope, str(name), data, text, prefix)
    return manifest, ()


def _faults(data: dict[str, Any], meta: Any, fields: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for field in ("apiVersion", "kind"):
        value = data.get(field)
        if not isinstance(value, str) or not value:
            yield (field,), "missing" if value is None else f"expected text, found {type_name(value)}"
    if not isinstance(meta, dict):
        yield ("metadata",), "missing" if meta is None else f"expected a mapping, found {type_name(meta)}"
        return
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        yield ("metadata", "name"), "missing" if name is None else f"expected text, found {type_name(name)}; use quotes"
    elif "/" in name:
        yield ("metadata", "name"), f"{name!r} cannot be a name: it holds a slash"
    namespace = fields.get("namespace")
    if namespace is not None and not isinstance(namespace, str):
        yield ("metadata", "namespace"), f"expected text, found {type_name(namespace)}; use quotes"
    elif namespace and "/" in namespace:
        yield ("metadata", "namespace"), f"{namespace!r} cannot be a namespace: it holds a slash"
    for field in ("labels", "annotations"):
        values = fields.get(field)
        if values is not None and not isinstance(values, dict):
            yield ("metadata", field), f"expected a mapping, found {type_name(values)}"
            continue
        for key, value in (values or {}).items():
            if not isinstance(value, str):
                yield ("metadata", field, key), f"expected text, found {type_name(value)}; use quotes"


def type_name(value: Any) -> str:
    """How a user would call the type of a YAML value."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"a boolean ({str(value).lower()})"
    if isinstance(value, int | float):
        return f"a number ({value})"
    if isinstance(value, str):
        return "text"
    return "a mapping" if isinstance(value, dict) else "a list"


def _status_of(path: str, text: str) -> tuple[tuple[Manifest, ...], tuple[ManifestError, ...]]:
    manifests: list[Manifest] = []
    errors: list[ManifestError] = []
    for document in parse(text):
        data = document.data
        if isinstance(data, dict):
            data = {"apiVersion": "v1"} | data
        manifest, faults = _manifest(path, document.text, data, (), document.line)
        errors += faults
        status = data.get("status") if isinstance(data, dict) else None
        if status is not None and not isinstance(status, dict):
            text = f"expected a mapping, found {type_name(status)}"
            errors.append(ManifestError(path, document.line, "", "status", text))
        elif manifest is not None:
            manifests.append(manifest)
    return tuple(manifests), tuple(errors)
