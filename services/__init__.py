"""What every tier is: the shared runtime. No file in here knows which tier it runs in."""
