"""What waypoints and gateways are told: routes, destinations, policies and telemetry, from Istio's own resources."""
