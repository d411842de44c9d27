"""The conditions of a VirtualService's HTTP rules: what is known beforehand is decided here, the rest is translated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from istiod.objects.virtual_service import HttpMatchRequest, HttpRoute, StreamMatch, StringMatch
from istiod.translate.l7.indexes import MESH, gateway_names
from istiod.translate.l7.routes import Client
from meshcore.l7 import ClaimMatch, HttpMatch, NamedMatch, TextKind, TextMatch

ANY: Final = TextMatch(TextKind.PRESENT)
_CLAIM: Final = re.compile(r"@request\.auth\.claims(?:\.(?P<dotted>[^\[\]]+)|(?P<nested>(?:\[[^\[\]]+\])+))")


def applies(match: HttpMatchRequest | StreamMatch, written_in: str, client: Client, port: int) -> bool:
    """Whether a match can hold at this proxy and port at all.

    A waypoint does not see its clients' labels, so such a match never holds; of namespaces it knows its own (and for
    connections none: `virtual_service` says why).
    """
    if match.port and match.port != port:
        return False
    if match.source_namespace and match.source_namespace != client.namespace:
        return False
    if match.source_labels and (client.waypoint or not match.source_labels.items() <= set(client.labels)):
        return False
    if not match.gateways:
        return True
    if client.gateway is None:
        return MESH in match.gateways
    return client.gateway in gateway_names(match.gateways, written_in)


def http_match(request: HttpMatchRequest) -> HttpMatch | None:
    """The conditions of one match; None if it holds for every request."""
    headers: list[NamedMatch] = []
    claims: list[ClaimMatch] = []
    for fields, negated in ((request.headers, False), (request.without_headers, True)):
        for name, value in fields.items():
            path = claim_path(name)
            if path:
                claims.append(ClaimMatch(path, text_match(value), negated))
            else:
                headers.append(NamedMatch(name.lower(), text_match(value), negated))
    found = HttpMatch(
        path=_path(request),
        method=_optional(request.method),
        scheme=_optional(request.scheme),
        authority=_optional(request.authority),
        headers=tuple(headers),
        query=tuple(NamedMatch(name, text_match(value)) for name, value in request.query_params.items()),
        claims=tuple(claims),
    )
    return None if found == HttpMatch() else found


def is_catch_all(match: HttpMatch | None) -> bool:
    """Nothing after it is ever reached."""
    if match is None:
        return True
    path = match.path
    return path is not None and path.kind is TextKind.PREFIX and path.value == "/" and match == HttpMatch(path=path)


def text_match(match: StringMatch, *, ignore_case: bool = False) -> TextMatch:
    """Nothing set, or the regex `*`, asks for presence only."""
    if match.exact is not None:
        return TextMatch(TextKind.EXACT, match.exact, ignore_case)
    if match.prefix is not None:
        return TextMatch(TextKind.PREFIX, match.prefix, ignore_case)
    if match.regex is not None and match.regex != "*":
        return TextMatch(TextKind.REGEX, match.regex)
    return ANY


def claim_path(header: str) -> tuple[str, ...]:
    """The path to a JWT claim in a header's name (`@request.auth.claims.a.b` or `...[a][b]`); empty if it is none."""
    found = _CLAIM.fullmatch(header)
    if found is None:
        return ()
    return tuple(found["dotted"].split(".")) if found["dotted"] else tuple(found["nested"][1:-1].split("]["))


def matches_of(
    route: HttpRoute, written_in: str, client: Client, port: int
) -> Iterator[tuple[HttpMatchRequest, HttpMatch | None]]:
    """The matches of a rule that can hold here; a rule without any holds always."""
    if not route.match:
        yield HttpMatchRequest(), None
    for request in route.match:
        if applies(request, written_in, client, port):
            yield request, http_match(request)


def _path(request: HttpMatchRequest) -> TextMatch | None:
    if request.uri is None:
        return None
    found = text_match(request.uri, ignore_case=request.ignore_uri_case)
    return None if found == ANY else found


def _optional(match: StringMatch | None) -> TextMatch | None:
    if match is None:
        return None
    found = text_match(match)
    return None if found == ANY else found
