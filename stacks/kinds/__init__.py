"""One file for each kind of engine: its section of a stack file, and how a stack's settings become its arguments."""
