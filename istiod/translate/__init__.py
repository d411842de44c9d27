"""From Kubernetes objects to what proxies are told."""
