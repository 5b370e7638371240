"""What every index needs: the backend that builds and opens it, the cache of built ones, disk space."""
