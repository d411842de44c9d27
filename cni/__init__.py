"""The node agent: enrols pods by programming their network namespaces and handing them to ztunnel."""
