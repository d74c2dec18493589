"""Download and unpack the archives of Stanford Dogs."""
