"""What of Flower's SuperLink is adapted to a fleet: one file each, listed in ``superlink.py``."""
