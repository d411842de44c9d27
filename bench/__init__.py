"""Measurements of the mesh against its rivals. Never imported by what is shipped."""
