"""Methods that carry text from one episode to the next. One method, one file."""
