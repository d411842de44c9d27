"""Objects of security.istio.io."""

from __future__ import annotations

import msgspec

from istiod.objects.base import ConditionedStatus, Meta, Object, Selector, TargetRef


class Source(Object, frozen=True):
    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()


class Operation(Object, frozen=True):
    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class RuleFrom(Object, frozen=True):
    source: Source = Source()


class RuleTo(Object, frozen=True):
    operation: Operation = Operation()


class RuleWhen(Object, frozen=True):
    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


class AuthorizationRule(Object, frozen=True):
    from_: tuple[RuleFrom, ...] = msgspec.field(name="from", default=())
    to: tuple[RuleTo, ...] = ()
    when: tuple[RuleWhen, ...] = ()


class Provider(Object, frozen=True):
    name: str = ""


class AuthorizationPolicySpec(Object, frozen=True):
    selector: Selector | None = None
    target_ref: TargetRef | None = None
    target_refs: tuple[TargetRef, ...] = ()
    rules: tuple[AuthorizationRule, ...] = ()
    action: str = "ALLOW"
    provider: Provider | None = None


class AuthorizationPolicy(Object, frozen=True):
    metadata: Meta
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
    status: ConditionedStatus = ConditionedStatus()


class MutualTls(Object, frozen=True):
    mode: str = "UNSET"


class PeerAuthenticationSpec(Object, frozen=True):
    selector: Selector | None = None
    mtls: MutualTls = MutualTls()
    port_level_mtls: dict[str, MutualTls] = msgspec.field(default_factory=dict)


class PeerAuthentication(Object, frozen=True):
    metadata: Meta
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: ConditionedStatus = ConditionedStatus()
