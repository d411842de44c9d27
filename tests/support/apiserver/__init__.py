"""A Kubernetes API server for tests: small, in memory, faithful where istiod can tell the difference.

Not there: admission, defaulting, schemas, garbage collection, RBAC, strategic merge and JSON patches, protobuf, tables.
"""

from tests.support.apiserver.api import API_AUDIENCE, TokenUser
from tests.support.apiserver.server import Control, KubeApi, api_server, running_api_server

__all__ = ["API_AUDIENCE", "Control", "KubeApi", "TokenUser", "api_server", "running_api_server"]
