"""Per-node L4 proxy. Importing the package imports nothing, so the worker zygote stays small."""
