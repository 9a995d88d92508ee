"""The commands, one module per panel of the help."""
