"""`offramp bench policies`: how good the chosen plans are, against what could have been chosen."""
