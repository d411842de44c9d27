"""The policies of a waypoint, of a service behind it, or of a gateway, with what they refer to."""

from __future__ import annotations

from istiod.translate.graph import View
from istiod.translate.indexes import GATEWAY_NAME
from istiod.translate.l7.authentication import jwt_rules
from istiod.translate.l7.authorization import authorization
from istiod.translate.l7.pods import pods_of_api_gateway
from istiod.translate.l7.providers import authorizer
from istiod.translate.l7.routes import Client
from istiod.translate.l7.targets import Attached, of_gateway, of_pods
from istiod.translate.meshconfig import mesh_config
from meshcore.l7 import Policies, PolicyAction, Telemetry


def waypoint_client(namespace: str, name: str) -> Client:
    """A waypoint as the one that follows rules."""
    return Client(namespace, ((GATEWAY_NAME, name),))


def gateway_client(view: View, namespace: str, name: str) -> Client:
    """A gateway of the Gateway API as the one that follows rules."""
    pods = view.ask(pods_of_api_gateway, namespace, name)
    return Client(namespace, pods[0][1], (namespace, name))


def policies(view: View, attached: Attached, client: Client) -> Policies:
    """Policies in the form that is sent, with the authorizers they name."""
    mesh = view.ask(mesh_config)
    rules = tuple(authorization(policy, mesh) for policy in attached.authorization)
    names = dict.fromkeys(rule.authorizer for rule in rules if rule.action is PolicyAction.CUSTOM)
    return Policies(rules, jwt_rules(attached.tokens), tuple(authorizer(view, name, client) for name in names))


def gateway_policies(view: View, namespace: str, name: str) -> Policies:
    """Of a gateway of the Gateway API: those attached to it, and those of its namespace or for its pods' labels."""
    general = of_pods(view, view.ask(pods_of_api_gateway, namespace, name))
    both = of_gateway(view, namespace, name).joined(general)
    return policies(view, both, gateway_client(view, namespace, name))


def referred(rules: Policies, telemetry: Telemetry) -> set[str]:
    """The keys of the services that authorizers and telemetry are sent to."""
    backends = [one.backend for one in rules.authorizers]
    sinks = [log.sink for log in telemetry.access_logs]
    if telemetry.tracing is not None and telemetry.tracing.sink is not None:
        sinks.append(telemetry.tracing.sink)
    backends += [one.backend for one in sinks if one.backend is not None]
    return {one.service for one in backends if one.service}
