"""What runs inside a peer's own environment: nothing here may import more than that has."""
