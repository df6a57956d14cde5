"""Where agents live: processes on this machine, or members of a simulation in virtual time."""
