"""gRPC on port 15012: Istio's workload discovery over delta xDS, and CreateCertificate.

Nothing here is imported before the first gRPC peer calls: the protobuf runtime costs memory that a mesh of our own
proxies does not need.
"""
