"""The testbed: everything around the tiers (links, traces, load, local runs, reports)."""
