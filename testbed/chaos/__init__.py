"""The chaos run: mixed traffic, faults by a seeded schedule, and invariants over the recorded history."""
