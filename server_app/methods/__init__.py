"""The server's half of every method: a class ``Server`` and its ``Settings``."""
