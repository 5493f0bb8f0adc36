"""The commands: `metta NAME` is the function in the module of that name."""
