"""Fuzz entry of the manifest parser: any text gives objects or errors with a line, never another exception."""

from __future__ import annotations

from meshcore import yamldoc
from meshcore.manifests import objects_of

SEEDS = (
    b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n",
    b'{"kind":"List","items":[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}, 7]}',
    b"a: &x [1]\nb: *x\n",
    b"- - - - - {{{[[[\n",
    b"metadata:\n  labels: {1: 2}\n  name: [\n",
    b"%YAML 1.1\n---\n!!str x\n...\n---\n? {a: b}\n: c\n",
    b"\xef\xbb\xbfkind: \xff",
    b"--- {a: 1}\n--- >\n text\n",
    b"a: 9999999999999999999999999999999999999999999999\nb: 0x\nc: 1e9999\n",
)


def fuzz_one(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        manifests, errors = objects_of("f.yaml", text)
    except yamldoc.YamlError as exc:
        if not 1 <= exc.line <= len(text) + 1:
            raise AssertionError(f"line {exc.line} is outside the text") from exc
        return
    for manifest in manifests:
        manifest.line_of(("metadata", "name"))
    for error in errors:
        str(error)
