"""The wire contracts, one file a method: what goes down to a device and what comes up."""
