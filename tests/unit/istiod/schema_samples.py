"""One object of every kind that uses most of its fields, written as the documentation of its API has it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

from meshcore import yamldoc

TEXT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews, "*.example.com"]
  gateways: [mesh, istio-system/public]
  exportTo: ["."]
  http:
  - name: canary
    match:
    - uri: {prefix: /v2}
      method: {exact: GET}
      headers: {end-user: {regex: "j.*"}, x-any: {}}
      withoutHeaders: {x-skip: {exact: "1"}}
      queryParams: {debug: {exact: "true"}}
      ignoreUriCase: true
      port: 8080
      sourceLabels: {app: web}
      sourceNamespace: default
      gateways: [mesh]
    rewrite: {uriRegexRewrite: {match: "/v2/(.*)", rewrite: '/\\1'}}
    route:
    - destination: {host: reviews, subset: v2, port: {number: 80}}
      weight: 90
      headers: {request: {set: {x-a: b}, add: {x-c: d}, remove: [x-e]}, response: {remove: [server]}}
    - destination: {host: reviews}
      weight: 10
    timeout: 5s
    retries: {attempts: 3, perTryTimeout: 2s, retryOn: "5xx,reset", backoff: 25ms, retryRemoteLocalities: true}
    fault:
      delay: {percentage: {value: 0.1}, fixedDelay: 5s}
      abort: {percentage: {value: 50}, httpStatus: 503}
    mirrors:
    - destination: {host: shadow}
      percentage: {value: 10}
    corsPolicy:
      allowOrigins: [{exact: "https://example.com"}]
      allowMethods: [GET, POST]
      maxAge: 24h
      allowCredentials: false
      unmatchedPreflights: IGNORE
  - redirect: {authority: other, redirectCode: 302, derivePort: FROM_REQUEST_PORT, scheme: https}
  - directResponse: {status: 503, body: {string: gone}}
  - delegate: {name: more, namespace: other}
  tls:
  - match: [{sniHosts: [a.example.com], port: 443}]
    route: [{destination: {host: a.example.com}}]
  tcp:
  - match: [{port: 27017, destinationSubnets: [10.0.0.0/8]}]
    route: [{destination: {host: mongo}, weight: 100}]
status:
  observedGeneration: 3
  conditions: [{type: Reconciled, status: "True", message: ok, lastTransitionTime: "2026-01-01T00:00:00Z"}]
  validationMessages: [{type: {name: Deprecated, code: IST0002}, level: WARNING, documentationUrl: "https://x"}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  exportTo: ["*"]
  workloadSelector: {matchLabels: {app: web}}
  trafficPolicy:
    loadBalancer:
      consistentHash:
        httpCookie: {name: user, ttl: 0s, path: /, attributes: [{name: SameSite, value: Lax}]}
        ringHash: {minimumRingSize: 1024}
      localityLbSetting: {enabled: true, distribute: [{from: a/*, to: {a/*: 80, b/*: 20}}]}
    connectionPool:
      tcp: {maxConnections: 100, connectTimeout: 30ms, tcpKeepalive: {time: 7200s, interval: 75s, probes: 3}}
      http: {http2MaxRequests: 1000, h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 10s, timeout: 5s}}
    outlierDetection: {consecutive5xxErrors: 7, interval: 5m, outlierDetectionHttpErrorCodes: [500, 429]}
    portLevelSettings:
    - port: {number: 80}
      loadBalancer: {simple: LEAST_REQUEST, warmup: {duration: 30s, minimumPercent: 10, aggression: 1.5}}
    tunnel: {protocol: CONNECT, targetHost: example.com, targetPort: 443}
    retryBudget: {percent: 20.5, minRetryConcurrency: 3}
  subsets:
  - name: v2
    labels: {version: v2}
    trafficPolicy:
      tls: {mode: MUTUAL, credentialName: client, subjectAltNames: [a], sni: a.example.com}
      loadBalancer: {zoneAwareLbSetting: {enabled: true, minClusterSize: 3, failover: [{from: a, to: b}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, protocol: HTTPS, name: https}
    hosts: ["default/*.example.com"]
    tls: {mode: SIMPLE, credentialName: cert, minProtocolVersion: TLSV1_2, cipherSuites: [AES256-SHA]}
  - port: {number: 80, protocol: HTTP, name: http}
    hosts: ["*"]
    tls: {httpsRedirect: true}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: external}
spec:
  hosts: [api.example.com]
  addresses: [192.192.192.192/24]
  ports: [{number: 443, name: https, protocol: TLS, targetPort: 8443}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: 2.2.2.2, ports: {https: 8443}, labels: {a: b}, locality: r/z, weight: 20}]
  subjectAltNames: ["spiffe://cluster.local/ns/a/sa/b"]
status: {addresses: [{value: 240.240.0.1, host: api.example.com}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm}
spec: {address: 2.2.2.2, ports: {http: 80}, labels: {app: vm}, network: net, serviceAccount: vm, weight: 1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: vms}
spec:
  metadata: {labels: {app: vm}, annotations: {a: b}}
  template: {ports: {grpc: 3550}, serviceAccount: default}
  probe: {initialDelaySeconds: 5, httpGet: {path: /, host: 127.0.0.1, port: 3100, httpHeaders: [{name: a, value: b}]}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  workloadSelector: {labels: {app: web}}
  ingress: [{port: {number: 9080, protocol: HTTP, name: a}, defaultEndpoint: "127.0.0.1:8080", captureMode: NONE}]
  egress: [{hosts: ["./*"], port: {number: 9080, protocol: HTTP, name: b}, bind: 0.0.0.0}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: default}
spec: {selector: {matchLabels: {app: web}}, concurrency: 0, environmentVariables: {A: b}, image: {imageType: debug}}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limit}
spec:
  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]
  priority: -10
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      proxy: {proxyVersion: '^1\\.27.*', metadata: {a: b}}
      listener: {portNumber: 80, filterChain: {filter: {name: hcm, subFilter: {name: router}}}}
    patch: {operation: INSERT_BEFORE, filterClass: AUTHZ, value: {name: x, typed_config: {"@type": t, list: [1, a]}}}
  - {applyTo: HTTP_ROUTE, match: {routeConfiguration: {vhost: {name: a, route: {action: ANY}}}}}
  - {applyTo: CLUSTER, match: {context: WAYPOINT, waypoint: {portNumber: 80, route: {name: a}}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow}
spec:
  targetRefs: [{kind: Service, group: "", name: reviews}]
  action: CUSTOM
  provider: {name: ext}
  rules:
  - from: [{source: {principals: ["*"], notNamespaces: [a], ipBlocks: [10.0.0.0/8], trustDomains: [cluster.local]}}]
    to: [{operation: {hosts: [a], notPorts: ["80"], methods: [GET], paths: ["/{*}/a"]}}]
    when: [{key: "request.headers[x]", values: [a], notValues: [b]}]
  - {}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {"8080": {mode: DISABLE}}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt}
spec:
  selector: {matchLabels: {app: web}}
  jwtRules:
  - issuer: https://example.com
    jwksUri: https://example.com/jwks
    audiences: [a]
    fromHeaders: [{name: x-jwt, prefix: "Bearer "}]
    fromCookies: [token]
    outputClaimToHeaders: [{header: x-group, claim: group}]
    forwardOriginalToken: true
    timeout: 5s
    spaceDelimitedClaims: [roles]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh}
spec:
  tracing:
  - providers: [{name: zipkin}]
    randomSamplingPercentage: 12.5
    customTags: {env: {literal: {value: prod}}, pod: {environment: {name: POD, defaultValue: x}}}
  metrics:
  - providers: [{name: prometheus}]
    reportingInterval: 5s
    overrides:
    - match: {metric: REQUEST_COUNT, mode: SERVER}
      disabled: false
      tagOverrides: {host: {operation: UPSERT, value: request.host}, path: {operation: REMOVE}}
  accessLogging: [{match: {mode: CLIENT}, disabled: false, filter: {expression: "response.code >= 400"}}]
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: auth}
spec:
  url: oci://example.com/auth:1
  phase: AUTHN
  priority: 10
  imagePullPolicy: Always
  pluginConfig: {deep: {er: [1, two, null]}}
  vmConfig: {env: [{name: A, valueFrom: INLINE, value: b}]}
  match: [{mode: SERVER, ports: [{number: 80}]}]
  failStrategy: FAIL_OPEN
  type: HTTP
---
apiVersion: extensions.istio.io/v1alpha1
kind: TrafficExtension
metadata: {name: header}
spec:
  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: w}]
  phase: STATS
  lua: {inlineCode: "function envoy_on_request(handle) end"}
  match: [{mode: SERVER, ports: [{number: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio}
spec: {controllerName: istio.io/gateway-controller, description: The default.}
status: {supportedFeatures: [{name: HTTPRoute}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public}
spec:
  gatewayClassName: istio
  addresses: [{type: IPAddress, value: 1.2.3.4}]
  infrastructure: {labels: {a: b}, parametersRef: {group: "", kind: ConfigMap, name: options}}
  allowedListeners: {namespaces: {from: Same}}
  tls: {frontend: {default: {validation: {caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}}}}
  listeners:
  - name: https
    hostname: "*.example.com"
    port: 443
    protocol: HTTPS
    tls: {mode: Terminate, certificateRefs: [{name: cert}], options: {gateway.istio.io/tls-terminate-mode: MUTUAL}}
    allowedRoutes:
      namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}
      kinds: [{kind: HTTPRoute}]
  - {name: mesh, port: 15008, protocol: HBONE}
status:
  addresses: [{type: IPAddress, value: 1.2.3.4}]
  attachedListenerSets: 0
  conditions:
  - {type: Accepted, status: "True", reason: Accepted, message: "", lastTransitionTime: "2026-01-01T00:00:00Z"}
  listeners:
  - name: https
    attachedRoutes: 1
    supportedKinds: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]
    conditions: []
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs: [{name: public, sectionName: https}, {group: "", kind: Service, name: reviews, port: 80}]
  hostnames: [www.example.com, "*.example.org"]
  rules:
  - name: main
    matches:
    - path: {type: PathPrefix, value: /v2}
      method: GET
      headers: [{name: x-a, value: b}, {type: RegularExpression, name: x-c, value: d.*}]
      queryParams: [{name: q, value: "1"}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}
    - {type: URLRewrite, urlRewrite: {hostname: a.b, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, fraction: {numerator: 1}}}
    - {type: CORS, cors: {allowOrigins: ["https://a.b"], allowMethods: [GET, "*"], maxAge: 60}}
    backendRefs:
    - name: reviews
      port: 80
      weight: 9
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x, value: y}]}}]
    timeouts: {request: 10s, backendRequest: 1m30s}
    retry: {codes: [500, 503], attempts: 2, backoff: 100ms}
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301, port: 443}}]
status:
  parents:
  - parentRef: {name: public}
    controllerName: istio.io/gateway-controller
    conditions: []
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: grpc}
spec:
  parentRefs: [{name: public}]
  rules:
  - matches: [{method: {service: pkg.Service, method: Get}, headers: [{name: a, value: b}]}]
    backendRefs: [{name: grpc, port: 9000}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: tcp}
spec: {parentRefs: [{name: public}], rules: [{backendRefs: [{name: a, port: 1, weight: 0}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: tls}
spec: {parentRefs: [{name: public}], hostnames: [a.b], rules: [{name: r, backendRefs: [{name: a, port: 443}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: grant}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]
  to: [{group: "", kind: Service}, {group: "", kind: Secret, name: b}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls}
spec:
  targetRefs: [{group: "", kind: Service, name: a, sectionName: https}]
  validation:
    hostname: a.example.com
    caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]
    subjectAltNames: [{type: URI, uri: "spiffe://a/b"}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more}
spec:
  parentRef: {name: public}
  listeners: [{name: http, port: 8080, protocol: HTTP}]
"""

SAMPLES: tuple[dict[str, Any], ...] = tuple(document.data for document in yamldoc.parse(TEXT))


def paths(value: Any, start: yamldoc.Path = ()) -> Iterator[tuple[yamldoc.Path, Any]]:
    """Every place of a value and what stands there, itself first."""
    yield start, value
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in members:
        yield from paths(item, (*start, name))


def changed(obj: dict[str, Any], path: yamldoc.Path, change: Callable[[Any, Any], None]) -> dict[str, Any]:
    """A copy of which `change` was given the holder of a place, and the name or index of the place in it."""
    result = copy.deepcopy(obj)
    holder: Any = result
    for part in path[:-1]:
        holder = holder[part]
    change(holder, path[-1])
    return result


def replaced(obj: dict[str, Any], path: yamldoc.Path, value: Any) -> dict[str, Any]:
    return changed(obj, path, lambda holder, part: operator.setitem(holder, part, value))
