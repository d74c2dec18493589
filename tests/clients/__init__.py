"""Other people's programs on the environments, as their users start them.

`make test-clients` installs the programs in a virtual environment of their own, `.venv-clients`;
where one is absent its tests are skipped.
"""
