"""Other servers of the same networks, side by side with ours."""
