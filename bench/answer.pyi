from collections.abc import Iterable

VERDICT_NAMES: tuple[str, ...]

def judge(pieces: Iterable[bytes], body_bytes: int) -> str:
    """What becomes of an answer that comes in these pieces: `more`, `done`, or a kind of error. For the tests."""
