"""A folder for PYTHONPATH: Python imports the `sitecustomize` in it as it starts."""
