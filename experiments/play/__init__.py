"""The task for a person, in a browser, beside an agent on the same images."""
