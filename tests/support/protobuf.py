"""Protobuf messages that owe nothing to our tables: compiled from `protos/` by protoc."""

from __future__ import annotations

import functools
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PROTOS: Final = Path(__file__).with_name("protos")


@functools.cache
def pool() -> DescriptorPool:
    """The messages of `protos/` and of the well-known files that they import."""
    from grpc_tools import protoc  # type: ignore[import-untyped]  # it ships no types

    compiled = FileDescriptorSet()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all.bin"
        includes = [f"-I{PROTOS}", f"-I{resources.files('grpc_tools') / '_proto'}"]
        sources = sorted(path.name for path in PROTOS.glob("*.proto"))
        if protoc.main(["protoc", *includes, "--include_imports", f"--descriptor_set_out={out}", *sources]):
            raise RuntimeError("protoc refuses tests/support/protos")
        compiled.ParseFromString(out.read_bytes())
    found = DescriptorPool()
    for file in compiled.file:
        found.Add(file)
    return found


def referee(name: str) -> Any:
    """The class of one of their messages by its full name."""
    return GetMessageClass(pool().FindMessageTypeByName(name))
