"""`ambient analyze`: what is wrong with a mesh's objects together, under the codes of `istioctl analyze`."""

from __future__ import annotations

from istiod.analyze.codes import CODES, Code, Level
from istiod.analyze.message import Message
from istiod.analyze.run import Options, analyze
from istiod.analyze.world import World

__all__ = ["CODES", "Code", "Level", "Message", "Options", "World", "analyze"]
