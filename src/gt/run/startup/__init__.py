"""A folder that `gt run` puts first on PYTHONPATH, so that Python finds its `sitecustomize`."""
