"""The device agent: the public door, the plan, and the first segment."""
