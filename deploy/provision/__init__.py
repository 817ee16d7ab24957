"""Provisioning: certificates, keys and a kit for the server and for each node of a fleet."""
