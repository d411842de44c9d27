"""The pages under /debug: what istiod read, what it made of it, and how. `docs/istiod-debug.md` has the table.

They show the whole mesh, so they are for callers on this host; what a Secret holds is never shown. Pages about many
objects are made in steps, so that proxies need not wait for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from istiod.admin import Answer, Request, Route, json
from istiod.monitoring import version
from istiod.parts import Parts
from istiod.readable import each, manifest, readable
from istiod.subscribers import PROXY_KEY, Subscribers, connection_id
from istiod.translate.graph import View
from istiod.translate.meshconfig import mesh_config
from istiod.translate.waypoints import Waypoint, waypoint
from meshcore.errors import Unavailable
from meshcore.manifests import Key
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE, Address, Service, Workload

Json: TypeAlias = dict[str, Any]


class _Namespaced(Protocol):
    @property
    def namespace(self) -> str: ...


T = TypeVar("T", bound=_Namespaced)

SUMMARIES: Final[Mapping[str, str]] = {
    "/debug": "this list",
    "/debug/list": "this list",
    "/debug/adsz": "connected proxies and what they subscribe to (proxyID)",
    "/debug/ambientz": "workloads, services, policies and waypoints as published (namespace)",
    "/debug/authorizationz": "authorization policies in force, by namespace",
    "/debug/config_dump": "resources by type: all that are published, or those a proxy has (proxyID)",
    "/debug/configz": "objects in force, Secrets without their content (kind, namespace)",
    "/debug/connections": "connected proxies (proxyID)",
    "/debug/endpointz": "workloads behind each service (namespace)",
    "/debug/force_disconnect": "end the streams of a proxy, which will come back (proxyID)",
    "/debug/graphz": "how often each derivation was computed or kept",
    "/debug/instancesz": "services that each proxy's own pod belongs to (proxyID)",
    "/debug/mesh": "the mesh's settings in force",
    "/debug/push_status": "the last push and what waits for the next one",
    "/debug/registryz": "services as published (namespace)",
    "/debug/resourcesz": "names of the resources that each proxy has (proxyID)",
    "/debug/statusz": "readiness, sources, leadership, CA, findings",
    "/debug/syncz": "whether each proxy has what was published (proxyID)",
}


class Debug:
    """Routes by path, for the admin server's local pages."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._subscribers = Subscribers(parts)

    def routes(self) -> Mapping[str, Route]:
        return {
            "/debug": self._list,
            "/debug/list": self._list,
            "/debug/ambientz": self._ambientz,
            "/debug/authorizationz": self._authorizationz,
            "/debug/config_dump": self._config_dump,
            "/debug/configz": self._configz,
            "/debug/endpointz": self._endpointz,
            "/debug/graphz": self._graphz,
            "/debug/mesh": self._mesh,
            "/debug/push_status": self._push_status,
            "/debug/registryz": self._registryz,
            "/debug/statusz": self._statusz,
            **self._subscribers.routes(),
        }

    def _list(self, request: Request) -> Answer:
        del request
        return json([{"path": path, "about": about} for path, about in SUMMARIES.items()])

    async def _ambientz(self, request: Request) -> Answer:
        published = self._parts.published
        policies = _within(request, published.objects(AUTHORIZATION_TYPE).values())
        return json(
            {
                "workloads": await each(self._workloads(request), readable),
                "services": await each(self._services(request), readable),
                "policies": await each(policies, readable),
                "waypoints": await each(self._waypoints(request), readable),
            }
        )

    async def _authorizationz(self, request: Request) -> Answer:
        del request
        found: dict[str, list[Json]] = {}
        for namespace, policy in await each(
            self._objects("AuthorizationPolicy"), lambda one: (one[0][1], manifest(*one))
        ):
            found.setdefault(namespace, []).append(policy)
        root = self._parts.settings.root_namespace
        return json({"authorization_policies": {"root_namespace": root, "namespace_to_policies": found}})

    async def _config_dump(self, request: Request) -> Answer:
        published = self._parts.published
        if PROXY_KEY in request.query:
            proxies = {}
            for proxy in self._subscribers.chosen(request):
                types = {}
                for url, state in tuple(proxy.types.items()):
                    content = published.objects(url) if url in published.resources else {}
                    held = [(name, seen, content.get(name)) for name, seen in sorted(state.held.items())]
                    types[url] = await each(held, _resource)
                proxies[connection_id(proxy)] = types
            return json(proxies)
        found: Json = {}
        for url in published.resources:
            items = tuple(published.objects(url).items())
            found[url] = dict(await each(items, lambda item: (item[0], readable(item[1]))))
        return json(found)

    async def _configz(self, request: Request) -> Answer:
        kind = request.query.get("kind")
        namespace = request.query.get("namespace")
        found = (
            (key, value)
            for key, value in self._parts.store
            if (kind is None or key[0].lower() == kind.lower()) and (namespace is None or key[1] == namespace)
        )
        return json(await each(found, lambda one: manifest(*one)))

    async def _endpointz(self, request: Request) -> Answer:
        members: dict[str, list[Json]] = {f"{one.namespace}/{one.hostname}": [] for one in self._services(request)}

        def put(workload: Workload) -> None:
            for key, ports in workload.services.items():
                if key in members:
                    fields = {"uid": workload.uid, "addresses": workload.addresses, "ports": ports}
                    members[key].append(readable({**fields, "status": workload.status}))

        await each((one.workload for one in self._addresses() if one.workload is not None), put)
        return json([{"svc": key, "ep": endpoints} for key, endpoints in sorted(members.items())])

    async def _registryz(self, request: Request) -> Answer:
        return json(await each(self._services(request), readable))

    def _graphz(self, request: Request) -> Answer:
        del request
        translator = self._parts.translator
        if translator is None:
            raise Unavailable("nothing was computed yet")
        graph = translator.graph
        names = sorted({*graph.computed, *graph.kept})
        return json(
            {
                "nodes": graph.size,
                "failures": graph.failures,
                "outputs": {output: len(held) for output, held in graph.outputs.items()},
                "derivations": {name: {"computed": graph.computed[name], "kept": graph.kept[name]} for name in names},
            }
        )

    def _mesh(self, request: Request) -> Answer:
        del request
        translator = self._parts.translator
        if translator is None:
            raise Unavailable("the mesh's settings were not read yet")
        mesh = mesh_config(View(translator.graph, {}))
        return json({"clusterId": mesh.cluster_id, "trustDomain": mesh.trust_domain, **readable(mesh)})

    def _push_status(self, request: Request) -> Answer:
        del request
        pusher = self._parts.pusher
        return json({"pending": pusher.pending, "last": pusher.last._asdict() if pusher.last is not None else None})

    def _statusz(self, request: Request) -> Answer:
        del request
        parts = self._parts
        authority, election = parts.authority.current, parts.election
        findings = parts.intake.findings.values()
        refused = sum(finding.refused for finding in findings)
        return json(
            {
                "version": version(),
                "uptimeSeconds": round(parts.uptime, 3),
                "ready": not parts.waiting_for,
                "waitingFor": parts.waiting_for,
                "objects": parts.store.size,
                "refusedObjects": refused,
                "objectsWithWarnings": len(findings) - refused,
                "statusesWritten": parts.duties is None or parts.duties.statuses.idle,
                "authority": {"rootExpires": authority.root_expiry, "chainExpires": authority.chain_expiry},
                "leader": {
                    "leads": election is None or election.is_leader,
                    "holder": election.holder if election is not None else "",
                },
                "sources": [
                    {
                        "resource": reflector.resource.plural,
                        "group": reflector.resource.group,
                        "objects": len(reflector),
                        "served": reflector.present,
                        "synced": reflector.synced.is_set(),
                        **readable(reflector.stats),
                    }
                    for reflector in parts.reflectors
                ],
            }
        )

    def _addresses(self) -> Iterable[Address]:
        return tuple(self._parts.published.objects(ADDRESS_TYPE).values())

    def _workloads(self, request: Request) -> Iterable[Workload]:
        return _within(request, (one.workload for one in self._addresses() if one.workload is not None))

    def _services(self, request: Request) -> Iterable[Service]:
        return _within(request, (one.service for one in self._addresses() if one.service is not None))

    def _waypoints(self, request: Request) -> Iterable[Waypoint]:
        if self._parts.translator is None:
            return
        view = View(self._parts.translator.graph, {})
        for (_, namespace, name), _ in self._objects("Gateway"):
            found = waypoint(view, namespace, name)
            if found is not None and request.query.get("namespace") in (None, namespace):
                yield found

    def _objects(self, kind: str) -> Iterable[tuple[Key, Any]]:
        for (namespace, name), value in sorted(self._parts.store.by_kind(kind).items()):
            yield (kind, namespace, name), value


def _within(request: Request, items: Iterable[T]) -> Iterable[T]:
    """Those of the namespace that the query names."""
    namespace = request.query.get("namespace")
    return items if namespace is None else (item for item in items if item.namespace == namespace)


def _resource(held: tuple[str, str, Any]) -> Json:
    name, seen, content = held
    return {"name": name, "version": seen, **({"resource": readable(content)} if content is not None else {})}
