"""The control plane: sources of objects, their translation, the push to proxies, and the certificate authority."""
