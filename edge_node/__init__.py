"""The edge node: the shared runtime with a next tier."""
