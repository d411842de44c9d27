"""The Kubernetes API as istiod uses it: a client, a reflector per kind, leader election."""
