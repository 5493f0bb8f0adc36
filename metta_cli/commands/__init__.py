"""The commands: the module of the same name implements `metta NAME`."""
