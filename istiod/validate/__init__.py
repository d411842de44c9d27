"""What is wrong with an object, before it is used."""

from __future__ import annotations

from istiod.validate.common import Problem
from istiod.validate.objects import Checked, check

__all__ = ["Checked", "Problem", "check"]
