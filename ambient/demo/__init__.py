"""The laptop mesh: two nodes and their pods as network namespaces, with the real components running in them."""
