"""The doctor: what is wrong with a device or a server before a run finds out, and its remedy."""
