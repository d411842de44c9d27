"""No Python surface: the module is for cimport."""
