"""clipperfs beside other model servers: each installed apart, checked, measured alone, all in one table."""
