"""The performance gate: what must not get dearer, in figures that do not depend on how busy the machine is."""
