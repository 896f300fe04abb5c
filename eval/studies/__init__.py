"""Studies beside the headline: knowing, drift, off-policy, operations."""
