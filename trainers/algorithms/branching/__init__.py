"""Methods that continue episodes from restored states. One method, one file."""
