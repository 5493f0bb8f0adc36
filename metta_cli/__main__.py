"""`python -m metta_cli` is `metta`."""

from metta_cli.main import main

main()
