"""Requests to the admin pages of an istiod in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from http.client import HTTPConnection
from typing import Any

TIMEOUT_S = 10


async def fetch(port: int, path: str, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, str]:
    """Status and body."""

    def get() -> tuple[int, str]:
        connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(get)


async def page(port: int, path: str) -> Any:
    """The JSON of a page that answers with 200."""
    status, body = await fetch(port, path)
    assert status == 200, body
    return json.loads(body)


def run(scenario: Coroutine[Any, Any, None], timeout: float = 30) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(timeout):
            await scenario

    asyncio.run(bounded())
