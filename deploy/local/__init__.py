"""The servers themselves, from their wheels, as children of whoever needs them on this machine."""
