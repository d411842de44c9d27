"""From a request to an answer: URLs, discovery, lists, TokenReview, and what a watch sends."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from tests.support.apiserver import status
from tests.support.apiserver.http import Request, Response
from tests.support.apiserver.kinds import Kind
from tests.support.apiserver.objects import Objects, Target, now
from tests.support.apiserver.selectors import Match, matcher
from tests.support.apiserver.store import Change, Obj, Store

_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"
API_AUDIENCE: Final = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True)
class TokenUser:
    """Who a token belongs to, as TokenReview says."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ("system:authenticated",)
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    audiences: tuple[str, ...] = (API_AUDIENCE,)


class Watch(NamedTuple):
    """A watch that was accepted."""

    target: Target
    match: Match
    version: int
    """Changes after this one."""

    initial: list[Obj]
    bookmarks: bool
    seconds: float


class Api:
    """Answers requests from a store. `tokens` are what TokenReview knows; `token` is what callers need, if anything."""

    def __init__(self, store: Store, tokens: Mapping[str, TokenUser], token: str) -> None:
        self.store = store
        self.objects = Objects(store)
        self.tokens = dict(tokens)
        self.token = token

    def answer(self, request: Request) -> Response | Watch:
        """Raises Refusal."""
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            raise status.Refusal(401, "Unauthorized", "Unauthorized")
        parts = request.path.strip("/").split("/")
        if request.path in {"/livez", "/readyz", "/healthz"}:
            return Response(200, b"ok")
        if request.path == "/version":
            return Response(200, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
        if parts == ["apis"]:
            return Response(200, self._groups())
        if parts[0] == "api" and len(parts) >= 2:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[0] == "apis" and len(parts) >= 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            return _page_not_found()
        if not rest:
            return self._resources(group, version)
        if (group, version, rest) == ("authentication.k8s.io", "v1", ["tokenreviews"]) and request.method == "POST":
            return self._token_review(_json(request))
        target = self._target(group, version, rest)
        return _page_not_found() if target is None else self._on(target, request)

    def _target(self, group: str, version: str, rest: list[str]) -> Target | None:
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
            namespace, rest = rest[1], rest[2:]
        kind = self.store.kinds.get((group, rest[0]))
        if kind is None or version not in kind.versions or len(rest) > 3:
            return None
        if not kind.namespaced and namespace:
            return None
        name, subresource = (*rest[1:], "", "")[:2]
        if subresource and not (subresource == "status" and kind.has_status):
            return None
        return Target(kind, version, namespace, name, subresource)

    def _on(self, target: Target, request: Request) -> Response | Watch:
        manager = request.query.get("fieldManager") or request.headers.get("user-agent", "unknown").partition("/")[0]
        match request.method, bool(target.name):
            case "GET", False:
                watch = request.query.get("watch") in {"true", "1"}
                return self._watch(target, request.query) if watch else self._list(target, request.query)
            case "GET", True:
                return Response(200, view(target, self.objects.get(target)))
            case "POST", False:
                body = _json(request)
                return Response(201, view(target, self.objects.create(target, body, target.writer(manager, "Update"))))
            case "PUT", True:
                return Response(200, view(target, self.objects.replace(target, _json(request), manager)))
            case "PATCH", True:
                return self._patch(target, request, manager)
            case "DELETE", True:
                last = self.objects.delete(target, _json(request) if request.body else {})
                details = {"name": target.name, "group": target.kind.group, "kind": target.kind.plural}
                details["uid"] = last["metadata"]["uid"]
                body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
                return Response(200, body)
            case _:
                raise status.Refusal(
                    405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
                )

    def _patch(self, target: Target, request: Request, manager: str) -> Response:
        content = request.headers.get("content-type", "")
        if content == _MERGE:
            return Response(200, view(target, self.objects.merge_patch(target, _json(request), manager)))
        if content != _APPLY:
            raise status.Refusal(
                415,
                "UnsupportedMediaType",
                f"the body of the request was in an unknown format - accepted media types include: {_MERGE}, {_APPLY}",
            )
        force = request.query.get("force") == "true"
        config = _json(request)
        obj, new = self.objects.apply(target, config, request.query.get("fieldManager", ""), force=force)
        return Response(201 if new else 200, view(target, obj))

    def _list(self, target: Target, query: Mapping[str, str]) -> Response:
        match = matcher(target.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if query.get("continue"):
            number, start = _continuation(query["continue"])
            version, items = self.store.kept(number)
        else:
            items = [obj for obj in self.store.select(target.kind, target.namespace) if match(obj)]
            number, start, version = 0, 0, self.store.version
        limit = int(query.get("limit") or 0) or len(items)
        page = items[start : start + limit]
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        if (left := len(items) - start - len(page)) > 0:
            number = number or self.store.keep(items)
            meta["continue"] = base64.urlsafe_b64encode(json.dumps([number, start + limit]).encode()).decode()
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                meta["remainingItemCount"] = left
        body = {
            "kind": f"{target.kind.kind}List",
            "apiVersion": target.kind.api_version(target.version),
            "metadata": meta,
            "items": [_list_item(target, obj) for obj in page],
        }
        return Response(200, body)

    def _watch(self, target: Target, query: Mapping[str, str]) -> Watch:
        match = matcher(target.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        asked = query.get("resourceVersion", "")
        if asked and not asked.isdigit():
            raise status.bad_request(f"resourceVersion: Invalid value: {asked!r}: strconv.ParseUint: invalid syntax")
        initial: list[Obj] = []
        if asked in {"", "0"}:
            initial = [obj for obj in self.store.select(target.kind, target.namespace) if match(obj)]
            version = self.store.version
        else:
            version = int(asked)
        bookmarks = query.get("allowWatchBookmarks") in {"true", "1"}
        return Watch(target, match, version, initial, bookmarks, float(query.get("timeoutSeconds") or 1800))

    def _token_review(self, body: Obj) -> Response:
        spec = body.get("spec", {})
        user = self.tokens.get(spec.get("token", ""))
        wanted = tuple(spec.get("audiences") or (API_AUDIENCE,))
        shared = [audience for audience in wanted if user is not None and audience in user.audiences]
        said: dict[str, Any]
        if user is None:
            said = {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        elif not shared:
            said = {
                "user": {},
                "error": f"[invalid bearer token, token audiences {list(user.audiences)!r} is invalid for the target "
                f"audiences {list(wanted)!r}]",
            }
        else:
            extra = {name: list(values) for name, values in user.extra.items()}
            shown = {"username": user.username, "uid": user.uid, "groups": list(user.groups), "extra": extra}
            said = {"authenticated": True, "user": shown, "audiences": shared}
        review = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1"}
        return Response(201, review | {"metadata": {"creationTimestamp": now()}, "spec": spec, "status": said})

    def _groups(self) -> Obj:
        groups: dict[str, list[str]] = {}
        for kind in self.store.kinds.values():
            if kind.group:
                versions = groups.setdefault(kind.group, [])
                versions += [version for version in kind.versions if version not in versions]
        return {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {"name": group, "versions": [{"groupVersion": f"{group}/{v}", "version": v} for v in versions]}
                for group, versions in sorted(groups.items())
            ],
        }

    def _resources(self, group: str, version: str) -> Response:
        served = [kind for kind in self.store.kinds.values() if kind.group == group and version in kind.versions]
        if not served:
            return _page_not_found()
        entries = [entry for kind in served for entry in _discovered(kind)]
        group_version = f"{group}/{version}" if group else version
        body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}
        return Response(200, body)


def events(watch: Watch, changes: Iterable[Change]) -> Iterator[Obj]:
    """What a watch is told of some changes: an object that no longer matches is deleted, as far as it can tell."""
    target = watch.target
    for change in changes:
        if change.kind != target.kind.id or (target.namespace and change.key[0] != target.namespace):
            continue
        before = change.old is not None and watch.match(change.old)
        if change.new is None:
            if before and change.old is not None:
                yield {"type": "DELETED", "object": view(target, change.old)}
        elif watch.match(change.new):
            yield {"type": "MODIFIED" if before else "ADDED", "object": view(target, change.new)}
        elif before and change.old is not None:
            meta = change.old["metadata"] | {"resourceVersion": change.new["metadata"]["resourceVersion"]}
            yield {"type": "DELETED", "object": view(target, change.old | {"metadata": meta})}


def bookmark(watch: Watch, version: int) -> Obj:
    kind = watch.target.kind
    head = {"kind": kind.kind, "apiVersion": kind.api_version(watch.target.version)}
    meta = {"resourceVersion": str(version), "creationTimestamp": None}
    return {"type": "BOOKMARK", "object": head | {"metadata": meta}}


def view(target: Target, obj: Obj) -> Obj:
    """An object in the version that was asked for; it is kept in the one in which it was written."""
    return obj | {"kind": target.kind.kind, "apiVersion": target.kind.api_version(target.version)}


def _list_item(target: Target, obj: Obj) -> Obj:
    """Items of built-in kinds carry no type in a list."""
    if target.kind.custom:
        return view(target, obj)
    return {name: value for name, value in obj.items() if name not in {"kind", "apiVersion"}}


def _discovered(kind: Kind) -> list[Obj]:
    entry = {"name": kind.plural, "singularName": kind.kind.lower(), "namespaced": kind.namespaced, "kind": kind.kind}
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    entries: list[Obj] = [entry | {"verbs": verbs}]
    if kind.has_status:
        entries.append(entry | {"name": f"{kind.plural}/status", "verbs": ["get", "patch", "update"]})
    return entries


def _page_not_found() -> Response:
    return Response(404, b"404 page not found\n")


def _continuation(token: str) -> tuple[int, int]:
    try:
        number, start = json.loads(base64.urlsafe_b64decode(token))
        return int(number), int(start)
    except (ValueError, TypeError, binascii.Error) as error:
        raise status.bad_request("continue key is not valid") from error


def _json(request: Request) -> Obj:
    try:
        return msgspec.json.decode(request.body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise status.bad_request(f"couldn't get version/kind; json parse error: {error}") from error
