"""The cloud node: the shared runtime, the last tier."""
