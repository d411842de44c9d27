"""The `ambient` command and the laptop mesh."""
