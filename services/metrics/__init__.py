"""What a tier tells Prometheus: one table of series, who feeds them, and where they are served."""
