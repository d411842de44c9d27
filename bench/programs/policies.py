"""Decides about a connection under many policies: `python -S policies.py PATHS POLICIES DECISIONS...`, one round each.

The connection is an HBONE stream into a pod; a fifth of the policies deny and none of those matches, of the others only
the last one allows it, so every decision goes through all of them. PATHS, joined by colons, is where modules are found.
Calls getppid(2) before, between and after the rounds, and never else: marks for whoever counts what a round takes.
"""

from __future__ import annotations

import gc
import os
import sys

sys.path[:0] = sys.argv[1].split(":")
from meshcore.model import Match, PolicyAction  # noqa: E402 - PATHS says where it is
from meshcore.records import Action  # noqa: E402
from tests.support.world import World, cidr, exactly  # noqa: E402

WARM_UP = 20  # decisions until the interpreter has specialised the code it runs
count, rounds = int(sys.argv[2]), list(map(int, sys.argv[3:]))

world = World()
world.pod("client", ip="10.0.0.1")
world.pod("server", ip="10.0.0.2", services={"web.default.svc.cluster.local": {80: 8080}})
world.service("web.default.svc.cluster.local", vips=["10.1.0.1"])
denied = count // 5
for number in range(denied):
    match = Match(namespaces=exactly(f"banned-{number}"), destination_ports=(8080,))
    world.policy(f"deny-{number:03}", match, action=PolicyAction.DENY)
for number in range(denied, count - 1):
    principal = f"cluster.local/ns/default/sa/other-{number}"
    world.policy(f"allow-{number:03}", Match(principals=exactly(principal)), Match(source_ips=(cidr("10.9.0.0/16"),)))
world.policy("permit", Match(principals=exactly("cluster.local/ns/default/sa/client"), destination_ports=(8080,)))

upcall = world.inbound_upcall("server", "10.0.0.2", 8080)
if world.decide(upcall).verdict.action is not Action.DELIVER:
    sys.exit("BUG: the connection is not allowed")
gc.disable()
for decisions in (WARM_UP, *rounds):
    os.getppid()
    for _ in range(decisions):
        world.ask(upcall)
os.getppid()
