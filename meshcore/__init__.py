"""Shared vocabulary and mechanics of every component. Importing the package imports nothing."""
