"""Commands of `offramp` that have a file of their own. Each imports what it needs when it runs."""
