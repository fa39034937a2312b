"""Many pairs: a table in, a folder for each pair and a summary out; here or on a Dask cluster."""
