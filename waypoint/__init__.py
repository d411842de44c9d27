"""The L7 proxy. Importing the package imports nothing."""
