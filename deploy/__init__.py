"""Operator commands: the command line, fleets on one machine, nodes."""
