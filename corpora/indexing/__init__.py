"""What every kind of index needs: the backend that builds and opens it, the cache of built indexes, disk space."""
