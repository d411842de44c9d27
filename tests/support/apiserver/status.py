"""Refusals, as the server words them."""

from __future__ import annotations

from typing import Any

from tests.support.apiserver.kinds import Kind


class Refusal(Exception):
    """Becomes a `Status` object and its HTTP code."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = headers or {}

    def status(self) -> dict[str, Any]:
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        return body | ({"details": self.details} if self.details else {})


def _details(kind: Kind, name: str) -> dict[str, str]:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return {key: value for key, value in details.items() if value}


def not_found(kind: Kind, name: str) -> Refusal:
    return Refusal(404, "NotFound", f'{kind.full_name} "{name}" not found', details=_details(kind, name))


def already_exists(kind: Kind, name: str) -> Refusal:
    message = f'{kind.full_name} "{name}" already exists'
    return Refusal(409, "AlreadyExists", message, details=_details(kind, name))


def conflict(kind: Kind, name: str, why: str) -> Refusal:
    message = f'Operation cannot be fulfilled on {kind.full_name} "{name}": {why}'
    return Refusal(409, "Conflict", message, details=_details(kind, name))


def modified(kind: Kind, name: str) -> Refusal:
    return conflict(
        kind, name, "the object has been modified; please apply your changes to the latest version and try again"
    )


def invalid(kind: Kind, name: str, why: str) -> Refusal:
    message = f'{kind.kind}.{kind.group} "{name}" is invalid: {why}'
    return Refusal(422, "Invalid", message, details=_details(kind, name))


def bad_request(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)


def expired(message: str) -> Refusal:
    return Refusal(410, "Expired", message)
