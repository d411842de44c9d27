"""What is wrong with an object, before it is used."""

from __future__ import annotations

from istiod.problem import Problem
from istiod.validate.objects import Checked, check, problems

__all__ = ["Checked", "Problem", "check", "problems"]
